"""Options of `adapt` and `train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from .encoders import DtypeName

ProblemTypeName = Literal["single_label_classification", "multi_label_classification", "regression"]


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
        seed: Seed of the new pooler and head, of masks and of the order of texts.
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
class MaskedTextOptions:
    """What the backbone learns from plain text before any task; nothing without --objective.

    Attributes:
        objective: Guess masked tokens, from the place before (mntp, as the decoder guessed the next token) or
            from the masked place itself (mlm).
        corpus: Text to learn from: files (.txt with a text a line, CSV, TSV, JSONL, parquet, also with .gz),
            hub:NAME for a data set on the Hugging Face hub, task:NAME for the training texts of a task or of
            all tasks of glue or superglue. Several take turns, a text each. A text longer than --max_length
            becomes several, none of it lost.
        tokens: Tokens to learn from, such as 500K or 5M; a smaller corpus is seen several times.
        text_column: Column of the text in files and hub data sets.
        data_dir: Folder with the files of task:NAME; the bundled sets or the hub if not given.
        data_source: Where task:NAME is looked for when there is no --data_dir.
        mask_rate: Share of the tokens that are masked.
        mask_token: Token that stands in their place; the tokenizer's mask token, or one that its makers left
            unused, if not given.
        batch_tokens: Tokens of one optimiser step, about; those of the longest document at least.
        max_tokens: Most tokens in one forward pass; lower it when memory runs out. Decides speed and memory
            only.
        learning_rate: Peak learning rate; 5e-5, with LoRA 3e-4, if not given.
        layer_decay: A layer's learning rate is that of the layer above it times this; 1 is the same for all.
        warmup_steps: Steps of warm-up, as a share of all steps if below 1.
        weight_decay: Weight decay of matrices; vectors have none.
        lr_scheduler_type: How the learning rate falls: linear, cosine, constant, ...
        attention_ramp: Share of the training over which later tokens come into attention, from counting
            nothing (causal) to as much as others.
        average_last: Share of the training, at its end, over which the weights are averaged; the mean is
            saved.
        tune: All of the backbone but the token embeddings, or LoRA adapters on it.
        lora_r: Rank of LoRA updates.
        lora_alpha: Their scale is lora_alpha / lora_r.
        merge_adapter: Fold the LoRA adapter into the saved weights.
        original_share: Share of the decoder's own weights in those that are saved.
        compile_layers: Compute the layers by compiled code; if not given, where it pays.
        bf16: Compute in bfloat16 (weights stay float32); by default where the machine does so natively.
        evaluations: How often held-out text is judged on the way.
        resume: Go on from the last checkpoint of an interrupted run with the same options.
    """

    objective: Literal["mntp", "mlm"] | None = None
    corpus: list[str] = field(default_factory=list)
    tokens: str = "1M"
    text_column: str = "text"
    data_dir: str | None = None
    data_source: Literal["auto", "bundled", "hub"] = "auto"
    mask_rate: float = 0.2
    mask_token: str | None = None
    batch_tokens: int = 4096
    max_tokens: int = 1024
    learning_rate: float | None = None
    layer_decay: float = 1.0
    warmup_steps: float = 0.1
    weight_decay: float = 0.01
    lr_scheduler_type: str = "linear"
    attention_ramp: float = 0.0
    average_last: float = 0.0
    tune: Literal["full", "lora"] = "full"
    lora_r: int = 16
    lora_alpha: int = 32
    merge_adapter: bool = True
    original_share: float = 0.0
    compile_layers: bool | None = None
    bf16: bool | None = None
    evaluations: int = 10
    resume: bool = False


@dataclass(frozen=True)
class TrainOptions:
    """What to train, on what, and where to.

    Attributes:
        model: A decoder (gemma-3-270m, smollm2-135m, a folder, a .gguf file, a hub id), adapted on the way,
            or a folder that `adapt` or `train` wrote.
        new_head: Take only the backbone of that folder, to learn another task with a new pooler and head. Its
            attention, window, layers and pooling stay as they are if not given.
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
    new_head: bool = False
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
class ListOptions:
    """Documents for queries, to train a re-ranker on. They can be of a --collection too.

    Attributes:
        train_lists: A query with its documents, or with positives and negatives, in each record: JSONL,
            parquet, or TSV of triples, also with .gz; or hub:NAME. Several are put together.
        validation_lists: The same to judge by; if not given, the lists of a part of the queries are held out
            (--validation_fraction).
        unseen_queries: Files of queries (id and text) of a test set; training is refused if one of them is
            among its queries.
        list_size: Documents of a list that a step sees, others in every epoch; 0 takes lists whole.
        list_positives: Relevant documents among them.
        list_sampling: positives draws those and fills up with others; uniform draws any, for a teacher's
            scores.
        ranking_loss: What is learnt of a list. pointwise, pairwise, softmax and poly1 are RankT5's;
            margin_mse and kl take the labels for a teacher's scores.
    """

    train_lists: list[str] = field(default_factory=list)
    validation_lists: list[str] = field(default_factory=list)
    unseen_queries: list[str] = field(default_factory=list)
    list_size: int = 36
    list_positives: int = 1
    list_sampling: Literal["positives", "uniform"] = "positives"
    ranking_loss: Literal[
        "pointwise", "pairwise", "softmax", "poly1", "listmle", "lambda", "margin_mse", "kl"
    ] = "softmax"


@dataclass(frozen=True)
class TrainingOptions:
    """How to train, as in `training.EncoderTrainingArguments` and `training.recipes`.

    Attributes:
        learning_rate: Peak learning rate of the backbone; the task's recipe if not given.
        head_learning_rate: That of pooler and head; the task's recipe if not given.
        layer_decay: A layer's learning rate is that of the layer above it times this; 1 is the same for all.
        num_train_epochs: Passes over the training rows; the task's recipe if not given. --epochs for short.
        per_device_train_batch_size: Rows of one optimiser step; the task's recipe if not given. --batch_size
            for short.
        max_tokens: Most tokens in one forward pass; lower it when memory runs out. Decides speed and memory
            only.
        eval_max_tokens: The same while evaluating.
        compile_layers: Compute the layers by compiled code, which is faster and takes up to half a minute to
            make. If not given: where that is possible, if what is left after a few steps is worth it.
        layout: Packed if not given, or for a comparison padded, by stock attention; what is learnt is the
            same.
        padding_side: Where the padded layout has its padding.
        padded_positions: What the padded layout counts positions from: a text's first token, or the row's
            first place, which padding on the left shifts.
        attention_ramp: Share of the training over which later tokens come into bidirectional attention, from
            counting nothing (causal) to as much as others. 0 is from the start.
        average_last: Share of the training, at its end, over which the weights are averaged; the mean is
            saved, instead of the best checkpoint.
        tune: What learns besides pooler and head: all of the backbone, LoRA adapters on it, or nothing.
        train_embeddings: With full, train the embeddings of the rows' tokens too.
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
    layer_decay: float = 1.0
    num_train_epochs: float | None = None
    per_device_train_batch_size: int | None = None
    max_tokens: int = 2048
    eval_max_tokens: int = 4096
    compile_layers: bool | None = None
    layout: Literal["packed", "padded"] | None = None
    padding_side: Literal["right", "left"] = "right"
    padded_positions: Literal["text", "row"] = "text"
    attention_ramp: float = 0.0
    average_last: float = 0.0
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
