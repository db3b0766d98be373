"""Exports of the offline encoder and of a DeBERTa-v3 against the plain pipeline:
`python benchmarks/exports.py`.

Both are fine-tuned briefly on documentation strings, then run on 1,000 others. The plain recipe is
`transformers.pipeline` in float32, batches of 16, every text padded to 256 tokens. Ours reads as
many tokens, but pads no further than needed. Tokenising is counted on both sides. Prints ratios of
texts a second and what the parity gate finds; takes some ten minutes on two cores.
"""

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["WORKBOOK_HOME"] = tempfile.mkdtemp()

import numpy as np
import plain
import training
import transformers

from lib.config import CleaningConfig, Config, ExportConfig
from lib.data import sources
from lib.delivery import exporting
from lib.evaluation.calibration import Calibrator
from lib.training import finetune
from lib.training.classifier import Classifier
from lib.training.ensembles import Ensemble
from lib.training.member import Member
from lib.workspace import Workspace

N_TRAIN, N_TEST, N_TIMED = 2_000, 1_000, 200
PROMISED = {"MiniLM": 4, "six-layer DeBERTa-v3": 3}
SETTINGS = {
    "max_length": plain.MAX_LENGTH,
    "epochs": 1,
    "unfreeze": [],
    "averaging": "none",
    "attention_dropout": 0,
    "eval_steps": 10_000,
    "precision": "fp32",
}


def main() -> None:
    rest, test = training.docstrings()
    learned = sources.sample_rows(rest, N_TRAIN, seed=1)
    test = sources.sample_rows(test, N_TEST, seed=2)
    for name, promised in PROMISED.items():
        compare(name, learned, test, promised=promised)


def compare(name, learned, test, *, promised: float) -> None:
    classifier = fine_tuned(name, learned, test.head(200))
    folder = Path(os.environ["WORKBOOK_HOME"]) / f"files {name}"
    exports, left_out = exporting.write_candidates(
        classifier, folder, names=[*exporting.CANDIDATES]
    )
    texts = test["text"].tolist()
    trials = exporting.run_trials(
        classifier,
        exports,
        folder,
        texts=texts,
        labels=test["label"].tolist(),
        limits=ExportConfig(n_single=30),
    )
    member = classifier.members[0]
    timed = texts[:N_TIMED]
    slow = plain_rate(member, timed)
    print(f"\n## {name}: {N_TEST:,} texts, {N_TIMED} timed; plain {slow:.1f} texts a second\n")
    print("| runtime | times plain | same labels | macro F1 | by company | gate |")
    print("|---|---|---|---|---|---|")
    rates = {}
    for trial in trials:
        ours = exporting.attach(classifier, trial.export, folder).members[0]
        ours.predict_probs(timed[:8])
        rates[trial.name] = max(
            plain.rate(partial(ours.predict_probs, timed), N_TIMED) for _ in range(2)
        )
        print(f"| {trial.name} | {rates[trial.name] / slow:.1f} | {found(trial.parity)} |")
    for export, why in left_out.items():
        print(f"| {export} | | | | | {why} |")
    best = max(rates[trial.name] for trial in trials if trial.passes) / slow
    print(f"\nfastest that passes: {best:.1f} times plain (>= {promised})", flush=True)


def found(parity) -> str:
    if parity is None:
        return "100 % | | | as measured"
    cells = [
        f"{100 * parity.label_agreement.value:.1f} %",
        parity.macro_f1_gain.signed(4),
        f"{parity.company_difference:.1g}",
        "passes" if parity.passes else "; ".join(parity.obstacles),
    ]
    return " | ".join(cells)


def fine_tuned(name, learned, val) -> Classifier:
    """Return a classifier of one transformer, which cleans nothing."""
    settings: dict[str, Any] = {f"training.{key}": value for key, value in SETTINGS.items()}
    settings |= {"training.backbone": training.backbone(name), "tracking.backend": "none"}
    config = Config.load("quick", settings)
    result = finetune.train(learned, val, config=config, ws=Workspace("bench", name))
    k = len(result.class_names)
    return Classifier(
        result.class_names,
        CleaningConfig.off(),
        [Member(name, result.model_dir, config.training)],
        Ensemble("soft", [name], result.class_names, np.ones(1), np.zeros(k)),
        Calibrator(np.ones(k), np.zeros(k)),
    )


def plain_rate(member: Member, texts: list[str]) -> float:
    pipeline = transformers.pipeline("text-classification", model=str(member.folder))
    options = {"truncation": True, "padding": "max_length", "max_length": plain.MAX_LENGTH}
    pipeline(texts[:8], batch_size=16, **options)
    return plain.rate(lambda: pipeline(texts, batch_size=16, **options), len(texts))


if __name__ == "__main__":
    main()
