"""BibTeX of the methods that a report may have used; only what was looked up or is the standard reference."""


def _arxiv(key: str, title: str, authors: str, year: int, number: str) -> str:
    fields = {"title": f"{{{title}}}", "author": authors, "year": str(year), "eprint": number, "archivePrefix": "arXiv"}
    return _entry("misc", key, fields)


def _entry(kind: str, key: str, fields: dict[str, str]) -> str:
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items()]
    return f"@{kind}{{{key},\n" + ",\n".join(lines) + "\n}"


def _article(key: str, title: str, authors: str, year: int, journal: str, volume: str, pages: str) -> str:
    fields = {"title": f"{{{title}}}", "author": authors, "year": str(year), "journal": journal}
    return _entry("article", key, fields | {"volume": volume, "pages": pages})


ENTRIES = {
    "nakano2021": _arxiv(
        "nakano2021",
        "WebGPT: Browser-assisted question-answering with human feedback",
        "Nakano, Reiichiro and Hilton, Jacob and Balaji, Suchir and others",
        2021,
        "2112.09332",
    ),
    "gao2022": _arxiv(
        "gao2022",
        "Scaling Laws for Reward Model Overoptimization",
        "Gao, Leo and Schulman, John and Hilton, Jacob",
        2022,
        "2210.10760",
    ),
    "chen2021": _arxiv(
        "chen2021",
        "Evaluating Large Language Models Trained on Code",
        "Chen, Mark and Tworek, Jerry and Jun, Heewoo and others",
        2021,
        "2107.03374",
    ),
    "beirami2024": _arxiv(
        "beirami2024",
        "Theoretical guarantees on the best-of-n alignment policy",
        "Beirami, Ahmad and Agarwal, Alekh and Berant, Jonathan and D'Amour, Alexander and Eisenstein, Jacob and "
        "Nagpal, Chirag and Suresh, Ananda Theertha",
        2024,
        "2401.01879",
    ),
    "amini2025": _arxiv(
        "amini2025",
        "Better Estimation of the KL Divergence Between Language Models",
        "Amini, Afra and Vieira, Tim and Cotterell, Ryan",
        2025,
        "2504.10637",
    ),
    "miller2024": _arxiv(
        "miller2024",
        "Adding Error Bars to Evals: A Statistical Approach to Language Model Evaluations",
        "Miller, Evan",
        2024,
        "2411.00640",
    ),
    "touvron2023": _arxiv(
        "touvron2023",
        "Llama 2: Open Foundation and Fine-Tuned Chat Models",
        "Touvron, Hugo and Martin, Louis and Stone, Kevin and others",
        2023,
        "2307.09288",
    ),
    "yuan2023": _arxiv(
        "yuan2023",
        "Scaling Relationship on Learning Mathematical Reasoning with Large Language Models",
        "Yuan, Zheng and Yuan, Hongyi and Li, Chengpeng and Dong, Guanting and Lu, Keming and Tan, Chuanqi and "
        "Zhou, Chang and Zhou, Jingren",
        2023,
        "2308.01825",
    ),
    "verdun2025": _arxiv(
        "verdun2025",
        "Soft Best-of-n Sampling for Model Alignment",
        "Mayrink Verdun, Claudio and Oesterling, Alex and Lakkaraju, Himabindu and Calmon, Flavio P.",
        2025,
        "2505.03156",
    ),
    "liu2023": _arxiv(
        "liu2023",
        "Statistical Rejection Sampling Improves Preference Optimization",
        "Liu, Tianqi and Zhao, Yao and Joshi, Rishabh and others",
        2023,
        "2309.06657",
    ),
    "huang2025": _arxiv(
        "huang2025",
        "Is Best-of-N the Best of Them? Coverage, Scaling, and Optimality in Inference-Time Alignment",
        "Huang, Audrey and Block, Adam and Liu, Qinghua and Jiang, Nan and Krishnamurthy, Akshay and Foster, Dylan J.",
        2025,
        "2503.21878",
    ),
    "jinnai2024": _arxiv(
        "jinnai2024",
        "Regularized Best-of-N Sampling to Mitigate Reward Hacking for Language Model Alignment",
        "Jinnai, Yuu and Morimura, Tetsuro and Ariu, Kaito and Abe, Kenshi",
        2024,
        "2404.01054",
    ),
    "wang2022": _arxiv(
        "wang2022",
        "Self-Consistency Improves Chain of Thought Reasoning in Language Models",
        "Wang, Xuezhi and Wei, Jason and Schuurmans, Dale and Le, Quoc and Chi, Ed and Narang, Sharan and "
        "Chowdhery, Aakanksha and Zhou, Denny",
        2022,
        "2203.11171",
    ),
    "hu2021": _arxiv(
        "hu2021",
        "LoRA: Low-Rank Adaptation of Large Language Models",
        "Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean and "
        "Wang, Lu and Chen, Weizhu",
        2021,
        "2106.09685",
    ),
    "kaplan2020": _arxiv(
        "kaplan2020",
        "Scaling Laws for Neural Language Models",
        "Kaplan, Jared and McCandlish, Sam and Henighan, Tom and Brown, Tom B. and Chess, Benjamin and Child, Rewon "
        "and "
        "Gray, Scott and Radford, Alec and Wu, Jeffrey and Amodei, Dario",
        2020,
        "2001.08361",
    ),
    "efron1993": _entry(
        "book",
        "efron1993",
        {
            "title": "{An Introduction to the Bootstrap}",
            "author": "Efron, Bradley and Tibshirani, Robert J.",
            "year": "1993",
            "publisher": "Chapman and Hall",
        },
    ),
    "fisher1935": _entry(
        "book",
        "fisher1935",
        {
            "title": "{The Design of Experiments}",
            "author": "Fisher, Ronald A.",
            "year": "1935",
            "publisher": "Oliver and Boyd",
        },
    ),
    "holm1979": _article(
        "holm1979",
        "A Simple Sequentially Rejective Multiple Test Procedure",
        "Holm, Sture",
        1979,
        "Scandinavian Journal of Statistics",
        "6",
        "65--70",
    ),
    "mcnemar1947": _article(
        "mcnemar1947",
        "Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages",
        "McNemar, Quinn",
        1947,
        "Psychometrika",
        "12",
        "153--157",
    ),
    "satterthwaite1946": _article(
        "satterthwaite1946",
        "An Approximate Distribution of Estimates of Variance Components",
        "Satterthwaite, F. E.",
        1946,
        "Biometrics Bulletin",
        "2",
        "110--114",
    ),
}
