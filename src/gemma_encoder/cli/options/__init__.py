"""The options of every verb: the whole surface of the command line.

Nothing here imports torch, not even for type checkers (jsonargparse would follow it), so that `--help`
answers at once.
"""

from __future__ import annotations

from .benchmarks import BenchmarkOptions, RecipeOptions, ReportOptions
from .collections import Bm25Settings, CandidatesOptions, CollectionOptions, FuseOptions, RankOptions
from .encoders import ComputeOptions, DropoutOptions, EncoderOptions, HeadOptions, PoolingOptions
from .making import AdaptOptions, ListOptions, MaskedTextOptions, TrainingOptions, TrainOptions
from .studies import StudyOptions
from .using import BenchOptions, EvaluateOptions, InspectOptions, PredictOptions, RunEvaluationOptions

OPTIONS: dict[str, tuple[type, ...]] = {
    "adapt": (AdaptOptions, MaskedTextOptions, EncoderOptions),
    "train": (TrainOptions, ListOptions, CollectionOptions, TrainingOptions, EncoderOptions),
    "evaluate": (EvaluateOptions, RunEvaluationOptions, ComputeOptions),
    "predict": (PredictOptions, ComputeOptions),
    "bench": (BenchOptions,),
    "inspect": (InspectOptions,),
    "rank": (RankOptions, CollectionOptions, ComputeOptions),
    "fuse": (FuseOptions,),
    "candidates": (CandidatesOptions, CollectionOptions),
    "benchmark": (BenchmarkOptions, RecipeOptions, EncoderOptions),
    "report": (ReportOptions,),
    "study": (StudyOptions,),
}

__all__ = [
    "OPTIONS",
    "AdaptOptions",
    "BenchOptions",
    "BenchmarkOptions",
    "Bm25Settings",
    "CandidatesOptions",
    "CollectionOptions",
    "ComputeOptions",
    "DropoutOptions",
    "EncoderOptions",
    "EvaluateOptions",
    "FuseOptions",
    "HeadOptions",
    "InspectOptions",
    "ListOptions",
    "MaskedTextOptions",
    "PoolingOptions",
    "PredictOptions",
    "RankOptions",
    "RecipeOptions",
    "ReportOptions",
    "RunEvaluationOptions",
    "StudyOptions",
    "TrainOptions",
    "TrainingOptions",
]
