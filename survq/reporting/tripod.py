"""The items of TRIPOD+AI (Collins et al., BMJ 2024), in our words: what software knows, and what authors must say."""

QUESTIONS = (
    ("3", "Background", "Which clinical decision is the model for, and what is known about existing models?"),
    ("4", "Objectives", "Is this development, validation or both?"),
    ("5a", "Data sources", "Where do the cohorts come from, and are they representative of the intended patients?"),
    ("5b, 6a", "Dates and setting", "When and in which centres were the patients treated?"),
    ("6b", "Eligibility", "Why does a case belong to the cohort, beyond the exclusions listed above?"),
    ("6c", "Treatments", "Which treatments did patients receive, and how do predictions account for them?"),
    ("8a", "Outcome", "Is the event death of any cause, or of the disease? How and when was it ascertained?"),
    ("8b", "Outcome assessors", "Who determined outcomes, and did they know the predictors?"),
    ("9a", "Predictors", "Why these modalities, and how were slides stained, scanned and genes measured?"),
    ("10", "Sample size", "Why are these numbers of cases and events enough?"),
    ("14", "Fairness", "Do accuracy and calibration differ between groups of patients?"),
    ("17", "Ethics", "Which committee approved the study, and how was consent obtained?"),
    ("18a, 18b", "Funding and conflicts", "Who paid, and who has interests?"),
    ("18e, 18f", "Data and code", "Where can others obtain the data and the code of this analysis?"),
    ("19", "Patients and public", "Were patients involved in design or reporting?"),
    ("25", "Interpretation", "What do these results mean beside earlier studies?"),
    ("26", "Limitations", "What could have biased them?"),
    ("27", "Usability", "What happens when slides or genes are of poor quality or missing in practice?"),
)
"""Item, topic and question."""

KNOWN = (
    ("6b", "Exclusions", "section Cohorts: cases excluded, by reason"),
    ("7", "Data preparation", "training cases only: scaling of expression and covariates; interval edges as stated"),
    (
        "11",
        "Missing data",
        "a missing modality excludes a case or is read by no model; unknown covariates: training mean",
    ),
    ("12a", "Analysis", "cross-validation; the protocol is in section What was asked"),
    ("12c", "Model", "section Settings, versions and hashes: model, hyperparameters, seeds"),
    ("12e", "Performance", "sections All methods and Calibration: discrimination, calibration and overall accuracy"),
    ("13", "Class imbalance", "no resampling of events unless the setting sampling says so"),
    ("15", "Model output", "a risk for ranking, and a hazard per time interval, in predictions.parquet"),
    ("16", "Training and evaluation", "no case is evaluated by a model that it trained; the folds are in the figure"),
    ("20a, 20b", "Participants", "section Cohorts: cases, events and events per fold"),
    ("22", "Full model", "weights of every fold, if the study ran with --keep-weights"),
    ("23a", "Results", "section All methods: estimates with 95 % intervals; folds in the figure"),
)
"""Item, topic, and where this report answers it."""
