"""From a run folder to what people read: tables, figures."""
