"""A report as one HTML file that needs nothing else: verdicts, figures, tables, runs, and a browser of samples."""

from bench.reporting.page.writing import write_page

__all__ = ["write_page"]
