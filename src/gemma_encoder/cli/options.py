"""The options of every verb: the whole surface of the command line.

Nothing here imports torch, not even for type checkers (jsonargparse would follow it), so that `--help`
answers at once. `PoolingOptions`, `HeadOptions` and `DropoutOptions` have the fields of `PoolingConfig`,
`HeadConfig` and `DropoutConfig`, whose modules need torch; a test holds them equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

ProblemTypeName = Literal["single_label_classification", "multi_label_classification", "regression"]
DtypeName = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class PoolingOptions:
    """How token states become one vector.

    Attributes:
        kind: Mean of all tokens, of the first k, of the last k, or learned attention.
        k: Tokens averaged by first_k and last_k; all there are in a shorter text.
        skip_bos: first_k leaves out the first token (BOS, an attention sink) unless the text has no other.
        probe: In attention, learned probes are the query, or the keys and values (kv).
        probes: Number of learned probes in attention.
        heads: Attention heads in attention; must divide the hidden size.
    """

    kind: Literal["mean", "first_k", "last_k", "attention"] = "mean"
    k: int = 1
    skip_bos: bool = False
    probe: Literal["query", "kv"] = "query"
    probes: int = 1
    heads: int = 4


@dataclass(frozen=True)
class HeadOptions:
    """The MLP on the pooled vector.

    Attributes:
        depth: Hidden layers; 0 is a linear head.
        width: Size of a hidden layer, that of the pooled vector if not given.
        activation: After each hidden layer.
        norm: Normalisation of the pooled vector. Without one, tanh saturates on Gemma 3's large states.
    """

    depth: int = 1
    width: int | None = None
    activation: Literal["tanh", "gelu", "relu", "silu"] = "tanh"
    norm: Literal["layer_norm", "none"] = "layer_norm"


@dataclass(frozen=True)
class DropoutOptions:
    """Dropout rates while training.

    Attributes:
        attention: On attention probabilities.
        feed_forward: On the output of every feed-forward block.
        embedding: On token embeddings.
        head: Before every linear layer of the head.
    """

    attention: float = 0.0
    feed_forward: float = 0.0
    embedding: float = 0.0
    head: float = 0.0


@dataclass(frozen=True)
class EncoderOptions:
    """What a decoder is made into.

    Attributes:
        attention: Who sees whom.
        window: What local layers with window W see when bidirectional: W to each side (radius), W in all
            (width), or everything (full).
        pooling: How token states become one vector.
        head: The MLP on the pooled vector.
        dropout: One rate for all places, or a rate each: --dropout.attention, --dropout.feed_forward,
            --dropout.embedding, --dropout.head. If not given, the task's recipe, or what an adapted folder
            has.
        max_length: Most tokens of a text, special tokens included; longer ones are cut and counted. The
            task's recipe if not given.
        template: How a row is written out: {text} and, for pairs, {text_pair}; the task's own if not given.
        bos: Begin every text with the tokenizer's BOS token, if it has one.
        eos: End every text with the tokenizer's EOS token, if it has one.
    """

    attention: Literal["bidirectional", "causal"] = "bidirectional"
    window: Literal["radius", "width", "full"] = "radius"
    pooling: PoolingOptions = field(default_factory=PoolingOptions)
    head: HeadOptions = field(default_factory=HeadOptions)
    dropout: float | DropoutOptions | None = None
    max_length: int | None = None
    template: str | None = None
    bos: bool = True
    eos: bool = True
    # No option itself: names of those that were given, be it at their default.
    given: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True)
class ComputeOptions:
    """Where and how a trained encoder runs.

    Attributes:
        max_tokens: Most tokens in one forward pass; lower it when memory runs out; the scores stay the same.
        device: auto (the GPU if there is one), cpu, cuda or cuda:N.
        dtype: Type of the backbone's weights; bfloat16 is about twice as fast and a little less exact.
    """

    max_tokens: int = 4096
    device: str = "auto"
    dtype: DtypeName = "float32"


@dataclass(frozen=True)
class AdaptOptions:
    """Which decoder, for what, and where to.

    Attributes:
        model: A decoder: gemma-3-270m, smollm2-135m, a folder, a .gguf file or a Hugging Face hub id.
        output: Folder to write.
        task: Take labels, kind of task and template from a task of GLUE or SuperGLUE: sst2, boolq, ...
        labels: Or name the labels (--labels negative,positive).
        problem_type: Kind of task for --labels.
        pairs: For --labels, texts are pairs.
        dtype: Type of the backbone's weights.
        seed: Seed of the new pooler and head.
        overwrite: Replace an output that exists.
        dry_run: Adapt and verify in memory, print what would be written, write nothing.
    """

    model: str
    output: str
    task: str | None = None
    labels: list[str] | None = None
    problem_type: ProblemTypeName = "single_label_classification"
    pairs: bool = False
    dtype: DtypeName = "float32"
    seed: int = 0
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class TrainOptions:
    """What to train, on what, and where to.

    Attributes:
        model: A decoder (gemma-3-270m, smollm2-135m, a folder, a .gguf file, a hub id), adapted on the way,
            or a folder that `adapt` or `train` wrote.
        output: Folder to write: the model, and run.json with options, versions and metrics.
        task: A built-in task, any of GLUE or SuperGLUE: sst2, boolq, ...
        data_dir: Folder with the task's files; the bundled sets or the Hugging Face hub if not given.
        data_source: Where built-in tasks are looked for when there is no --data_dir.
        train_file: Or your own file: CSV, TSV, JSONL or parquet, also with .gz.
        validation_file: The file to judge by; if not given, a part of --train_file is held out.
        validation_fraction: The part held out.
        text_column: Column of the text in your file.
        text_pair_column: Column of the second text in your file, for pairs.
        label_column: Column of the label in your file.
        label_separator: What stands between the labels of a row in your file (multi-label).
        problem_type: Kind of task of your file; by default what its labels look like.
        labels: Class names in the order wanted; by default those in your file.
        metrics: Judge your file by these, the first picks the best checkpoint (--metrics accuracy,f1_macro).
        skip_bad_rows: Leave out and count rows that can't be read, instead of stopping at the first.
        max_train_rows: Train on this many rows, drawn with --seed.
        resume: Go on from the last checkpoint of an interrupted run with the same options.
        overwrite: Replace an output that exists.
        dry_run: Read the data, make the model, print what would happen, write nothing.
    """

    model: str
    output: str
    task: str | None = None
    data_dir: str | None = None
    data_source: Literal["auto", "bundled", "hub"] = "auto"
    train_file: str | None = None
    validation_file: str | None = None
    validation_fraction: float = 0.1
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    label_separator: str | None = None
    problem_type: ProblemTypeName | None = None
    labels: list[str] | None = None
    metrics: list[str] | None = None
    skip_bad_rows: bool = False
    max_train_rows: int | None = None
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class TrainingOptions:
    """How to train, as in `training.EncoderTrainingArguments` and `training.recipes`.

    Attributes:
        learning_rate: Peak learning rate of the backbone; the task's recipe if not given.
        head_learning_rate: That of pooler and head; the task's recipe if not given.
        num_train_epochs: Passes over the training rows; the task's recipe if not given. --epochs for short.
        per_device_train_batch_size: Rows of one optimiser step; the task's recipe if not given. --batch_size
            for short.
        max_tokens: Most tokens in one forward pass; lower it when memory runs out. Decides speed and memory
            only.
        eval_max_tokens: The same while evaluating.
        tune: What learns besides pooler and head: all of the backbone, LoRA adapters on it, or nothing.
        train_embeddings: With full, train the token embeddings too (most of a small Gemma's parameters).
        lora_r: Rank of LoRA updates.
        lora_alpha: Their scale is lora_alpha / lora_r.
        lora_dropout: Dropout in front of them.
        lora_target_modules: Which linear layers get one: all-linear, or names separated by commas.
        merge_adapter: Fold the LoRA adapter into the saved weights. --merge_adapter false saves it by itself,
            a few MB, for use with this package and the same decoder.
        warmup_steps: Steps of warm-up, as a share of all steps if below 1.
        weight_decay: Weight decay of matrices; vectors have none.
        bf16: Compute in bfloat16 (weights stay float32); by default where the machine does so natively.
        lr_scheduler_type: How the learning rate falls: linear, cosine, constant, ...
        early_stopping_patience: Stop after this many evaluations without a better main metric.
        seed: Seed of the new pooler and head, the order of rows, dropout, and the rows drawn.
        args: Any other field of transformers.TrainingArguments: --args.KEY VALUE, e.g. --args.adam_beta2
            0.98.
    """

    learning_rate: float | None = None
    head_learning_rate: float | None = None
    num_train_epochs: float | None = None
    per_device_train_batch_size: int | None = None
    max_tokens: int = 2048
    eval_max_tokens: int = 4096
    tune: Literal["full", "lora", "head"] = "full"
    train_embeddings: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_target_modules: str = "all-linear"
    merge_adapter: bool = True
    warmup_steps: float = 0.1
    weight_decay: float = 0.01
    bf16: bool | None = None
    lr_scheduler_type: str = "linear"
    early_stopping_patience: int | None = None
    seed: int = 0
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluateOptions:
    """What to judge, on what.

    Attributes:
        model: Folder of a trained encoder.
        task: A built-in task, any of GLUE or SuperGLUE: sst2, boolq, ...
        split: The split of --task; its official validation split if not given.
        data_dir: Folder with the task's files; the bundled sets or the Hugging Face hub if not given.
        data_source: Where built-in tasks are looked for when there is no --data_dir.
        file: Or a labelled file: CSV, TSV, JSONL or parquet, also with .gz.
        text_column: Column of the text in --file.
        text_pair_column: Column of the second text in --file, for a model of pairs.
        label_column: Column of the label in --file.
        label_separator: In --file, what stands between the labels of a row (multi-label).
        metrics: Instead of the task's own (--metrics accuracy,f1_macro).
        skip_bad_rows: Leave out and count rows that can't be read, instead of stopping at the first.
        json_out: Where to write the result; if not given, evaluation-NAME.json in the model's folder, NAME
            being the task or the file without its ending, which replaces one of that name.
        overwrite: Replace a --json_out that exists.
        dry_run: Read and tokenise the rows, print what would happen, write nothing.
    """

    model: str
    task: str | None = None
    split: str | None = None
    data_dir: str | None = None
    data_source: Literal["auto", "bundled", "hub"] = "auto"
    file: str | None = None
    text_column: str = "text"
    text_pair_column: str = "text_pair"
    label_column: str = "label"
    label_separator: str | None = None
    metrics: list[str] | None = None
    skip_bad_rows: bool = False
    json_out: str | None = None
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class PredictOptions:
    """What to score and where to put it.

    Attributes:
        model: Folder of a trained encoder.
        input: CSV, TSV, JSONL, parquet or plain lines (.txt), also with .gz; - reads standard input.
        text: A text to score, for quick use; repeatable.
        text_pair: The second text of each --text, for a model of pairs; repeatable.
        output: Where to write, .jsonl or .csv; - is standard output.
        input_format: csv, tsv, jsonl, lines or parquet; from the file's name if not given, lines for -.
        output_format: jsonl or csv; from the file's name if not given, jsonl for -.
        text_column: Column of the text.
        text_pair_column: Column of the second text, for a model of pairs.
        keep: Input columns to copy into the output, such as an id (--keep id,title), or all.
        resume: Go on after the rows that the output already has.
        overwrite: Replace an output that exists.
        skip_bad_rows: Leave out and count rows that can't be read, instead of stopping at the first.
        buffer_rows: Rows scored together and written at once; a kill loses this many at most.
        dry_run: Read and tokenise the input, print what would happen, write nothing.
    """

    model: str
    input: str | None = None
    text: list[str] = field(default_factory=list)
    text_pair: list[str] = field(default_factory=list)
    output: str = "-"
    input_format: Literal["csv", "tsv", "jsonl", "lines", "parquet"] | None = None
    output_format: Literal["jsonl", "csv"] | None = None
    text_column: str = "text"
    text_pair_column: str = "text_pair"
    keep: list[str] = field(default_factory=list)
    resume: bool = False
    overwrite: bool = False
    skip_bad_rows: bool = False
    buffer_rows: int = 512
    dry_run: bool = False


@dataclass(frozen=True)
class InspectOptions:
    """Which folder, and how to say it.

    Attributes:
        model: Folder of an encoder.
        json: Print JSON instead of text.
    """

    model: str
    json: bool = False


@dataclass(frozen=True)
class BenchmarkOptions:
    """Which suite, which models, how often.

    Attributes:
        suite: glue or superglue; may stand first, without --suite.
        model: The decoder under test: gemma-3-270m, smollm2-135m, a folder, a .gguf file or a hub id.
        output: Folder of trials and results; runs/SUITE if not given. The same command goes on in it.
        tasks: Some of the suite's tasks (--tasks cola,rte); all if not given.
        seeds: How many seeds, from 0.
        baselines: Also train the same decoder as transformers' own classifier (causal, last token, padded)
            and an established encoder, on the same rows, steps and seeds.
        encoder_model: The established encoder, a folder or hub id, for --baselines.
        recipe: YAML file with hyper-parameters and numbers of rows for some tasks, in the form of ours
            (docs/benchmark.md); options on the command line come before it.
        warm_start: RTE, MRPC and STS-B (SuperGLUE: RTE and CB) start from the seed's model of MNLI.
        wnli: Count WNLI in GLUE's average.
        jobs: Trials side by side; they share the cores.
        budget_minutes: Begin no trial that would probably end later than this.
        data_dir: Folder with the suite's files, if they aren't to come from the Hugging Face hub.
        data_source: Where tasks are looked for when there is no --data_dir; auto is bundled, then hub.
        submission: Also answer the official test sets, and zip the answers as the leaderboard takes them.
        keep_models: Keep the trained models, a gigabyte each for Gemma 3 270M.
        smoke: A run of minutes to see that everything works: one seed, 32 training and 64 validation rows of
            each task, one epoch, bundled tasks only where there is no --data_dir.
        dry_run: Print the trials and what they compute, run nothing.
    """

    suite: str
    model: str
    output: str | None = None
    tasks: list[str] | None = None
    seeds: int = 3
    baselines: bool = False
    encoder_model: str = "google-bert/bert-base-uncased"
    recipe: str | None = None
    warm_start: bool = False
    wnli: bool = False
    jobs: int = 1
    budget_minutes: float | None = None
    data_dir: str | None = None
    data_source: Literal["auto", "bundled", "hub"] = "hub"
    submission: bool = False
    keep_models: bool = False
    smoke: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class RecipeOptions:
    """Hyper-parameters of all trials instead of each task's recipe.

    Attributes:
        learning_rate: Peak learning rate of the backbone, and of all of the stock classifier.
        head_learning_rate: That of pooler and head.
        num_train_epochs: Passes over the training rows. --epochs for short.
        per_device_train_batch_size: Rows of one optimiser step. --batch_size for short.
        encoder_learning_rate: That of the established encoder.
        max_train_rows: Train on at most this many rows of each task, drawn with the trial's seed.
        max_validation_rows: Judge by at most this many rows of each split; for a first look only.
        bf16: Compute in bfloat16 (weights stay float32); by default where the machine does so natively.
        args: Any other field of EncoderTrainingArguments: --args.KEY VALUE, e.g. --args.tune lora; not for
            the stock classifier.
    """

    learning_rate: float | None = None
    head_learning_rate: float | None = None
    num_train_epochs: float | None = None
    per_device_train_batch_size: int | None = None
    encoder_learning_rate: float | None = None
    max_train_rows: int | None = None
    max_validation_rows: int | None = None
    bf16: bool | None = None
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportOptions:
    """Which benchmark.

    Attributes:
        folder: Folder of a benchmark, finished or not (may stand first, without --folder); its results.* are
            made again from the trials' records.
        wnli: Count WNLI in GLUE's average.
    """

    folder: str
    wnli: bool = False


OPTIONS: dict[str, tuple[type, ...]] = {
    "adapt": (AdaptOptions, EncoderOptions),
    "train": (TrainOptions, TrainingOptions, EncoderOptions),
    "evaluate": (EvaluateOptions, ComputeOptions),
    "predict": (PredictOptions, ComputeOptions),
    "inspect": (InspectOptions,),
    "benchmark": (BenchmarkOptions, RecipeOptions, EncoderOptions),
    "report": (ReportOptions,),
}
