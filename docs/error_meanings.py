# ruff: noqa: E501
"""What each message means, and what to do: the hand-written part of docs/errors.md, which make_errors.py writes.

A key is that of a message in a test: of `SAYS` in tests/test_errors.py, or of `FLAGS` and `FILES` in
tests/test_generate_cli.py (their words joined by spaces). `match:TEXT` is any message with that text that a test asserts.
A value is (what is wrong, what to do).
"""

MEANING: dict[str, dict[str, tuple[str, str]]] = {
    "The command line and the config file": {
        "no config": ("no config file named", "name one"),
        "config file missing": ("it does not exist", "the path is relative to the current folder"),
        "match:no config '…' (did you mean": (
            "no shipped config has that name",
            "a name without `.py` is that of a config that comes with nash_jax",
        ),
        "config file broken": ("it is broken Python", "repair that line"),
        "no variant": ("it has no such variant", "what is after the colon of `--config=FILE:VARIANT`"),
        "no variants": ("it has no variants", "remove `:VARIANT`"),
        "no such argument": ("it has no such argument, or a wrong value", "[arguments](tasks.md#arguments)"),
        "config file returns nothing": ("it returns no ConfigDict", "`return config`"),
        "config file reads what is not there": (
            "it reads a file that does not exist",
            "the path is relative to the current folder",
        ),
        "misspelt setting": ("a misspelt setting", "[all settings](api/config.md)"),
        "misspelt setting in the file": ("the same in the config file", ""),
        "misspelt setting in a cell": ("one in a cell of a study", ""),
        "no such cell": ("a misspelt cell", "`--list-cells` lists them"),
        "flag of a cell": ("a flag that would change a cell", ""),
        "too many contrasts": ("more than four contrasts", "[contrasts](study.md#contrasts)"),
        "contrast of no cell": ("a contrast names a cell that the study does not have", ""),
        "match:config.contrasts: no file 'none.json'": (
            "the file of contrasts does not exist",
            "the path is relative to the current folder",
        ),
        "match:predicted is 'about 1'; expected at least X": ("a prediction that cannot be read", ""),
        "match:nash and other have different teachers": (
            "a contrast of cells that do not share their teachers, so that their seeds are no pairs",
            "give both the same `task`, `model`, `finetune` and `evaluate`",
        ),
        "match:trials with 1 and 2 values": (
            "settings with different numbers of values to try",
            "[trials](study.md#trials)",
        ),
        "match:trials of settings that make the teacher": ("a setting of the teacher among those tried", ""),
        "match:cell a-s2 waits for its trials": (
            "a cell was started before the trials of its group were over",
            "run the trials, then the same command again",
        ),
        "no study": ("a flag of studies without a study", ""),
        "misspelt flag": (
            "a misspelt flag",
            "the flags are `--config`, `--workdir`, `--cell`, `--list-cells` and `--config.group.field`",
        ),
        "no flag": ("a word that is not a flag", "remove it; put a value with spaces in quotes"),
        "wrong type": ("a value of another type", ""),
        "out of range": ("a value out of range", "shares are from 0 to 1, not per cent"),
        "unknown choice": ("an unknown choice", "[metrics](evaluation.md#metrics)"),
        "misspelt stage": ("a misspelt stage", "write stages separated by commas, in any order"),
        "stage before its input": ("a stage without the stage before it", ""),
        "nothing to evaluate": ("nothing to evaluate", "[evaluation](evaluation.md)"),
        "too many layers": ("more decoder layers than there are", "keep fewer; 0 keeps all"),
        "gates without time": ("gates without time to reach their target", "lower these two as well"),
        "gates of too many layers": ("gates that should keep more layers than there are", ""),
    },
    "The machine and the workdir": {
        "match:error: not installed: ": (
            "packages of an extra are not installed",
            "loading and generating need none; from a checkout `pip install -e '.[train]'`",
        ),
        "uneven batch": (
            "the batch cannot be split over the devices",
            "the batch size must also be a multiple of the devices times `accumulation`",
        ),
        "workdir is a file": ("the workdir is inside a file", "use another `--workdir`"),
        "workdir not writable": ("the workdir cannot be written", "use another `--workdir`, or change its permissions"),
        "other settings": ("the workdir belongs to another run", "use one workdir for each run"),
        "no locks": ("the file system of the workdir has no locks", ""),
        "match: is locked by process ": ("another process uses the workdir", "wait for it, or stop it"),
    },
    "The data": {
        "data file missing": ("a file is missing", "the path is relative to the current folder"),
        "empty row": (
            "too many rows cannot be used",
            "up to that share, such rows are dropped and counted: [kinds and rules](own_data.md#rows-that-cannot-be-used)",
        ),
        "broken row": (
            "lines are not JSON",
            "the first of each kind is named as `file:line`; in Parquet as `file row N`",
        ),
        "leaked row": ("training rows are also test rows", "split the data so that no source is in two files"),
        "column missing": ("a column is missing", "set these two settings to the names of your columns"),
        "match:config.evaluate.labels_only is True": (
            "outputs can only be labels where all rows have the same ones",
            "turn the setting off for mixtures and tasks without labels",
        ),
        "match:the references score 0.0 ": (
            "the metric finds nothing in the references, so an output equal to its reference would have no full marks",
            "the setting that the message names; [which tokenizer](evaluation.md#scripts)",
        ),
        "match:, which sacrebleu cannot load: ": (
            "BLEU's tokenizer needs a package, or files from the network",
            "install what the message names, or another `config.task.bleu_tokenizer`",
        ),
        "rows without labels": (
            "the rows do not have what the metric needs",
            "use another `config.task.metric`; [metrics](evaluation.md#metrics) says what each needs",
        ),
        "gzip cut short": ("a gzip file is not complete", "the lines before the named one are good"),
        "batch larger than data": ("fewer rows than a batch", "use a smaller batch"),
        "loss not finite": (
            "the loss is not a finite number",
            "try float32 if it was bfloat16; other settings need another `--workdir`",
        ),
        "match:: broken CSV: …; expected each quoted field closed": (
            "a quote of a CSV is not closed, or text follows a closing quote",
            "no row after it is read, for none would be certain; the line is that where the broken row begins",
        ),
        "match: different sources, for the splits train, test, validation": (
            "too few rows to hold some out",
            "[one file alone](own_data.md#one-file-alone)",
        ),
        "match:with 2 pairs of languages": (
            "a mixture of translations between other languages, with a multilingual model",
            "one run for each pair",
        ),
        "match:folder is a folder, which datasets.save_to_disk did not write": (
            "a folder of files instead of the files",
            "[files](own_data.md#files)",
        ),
        "match:keep_tokens names 'two words'; expected tokens of the tokenizer": (
            "a token to keep that the tokenizer does not have",
            "[special tokens](evaluation.md#special-tokens-in-outputs)",
        ),
        "match:expected the columns of the task": (
            "your own files under the name of a task, with other columns",
            "[tasks](tasks.md)",
        ),
        "match:label_outside_set 1": (
            "labels that the training rows do not have",
            "repair the rows, or add such rows to the training file",
        ),
        "match::2: byte 0xe9 is not UTF-8": (
            "a CSV header or a file of texts is not UTF-8, nor UTF-16 with a byte-order mark",
            "`iconv -f latin1 -t utf-8`",
        ),
        "match:does not fit this phase": (
            "the run was started by another version of nash_jax",
            "or finish the run with the version that started it",
        ),
    },
    "The model, the tokenizer and the hub": {
        "no tokenizer": ("no tokenizer", "a fresh model on your own files needs a tokenizer"),
        "no tokenizer beside the model": (
            "an evaluated model has no tokenizer",
            "without a tokenizer, `config.stages=benchmark` still works",
        ),
        "no such model folder": ("no such folder", ""),
        "no weights": ("no weights in the folder", "[what is read](checkpoints.md#what-is-read)"),
        "other shape": (
            "weights of another shape than `config.json` says",
            "use the `config.json` that came with the weights",
        ),
        "weights cut short": ("the weights file is not complete", ""),
        "damaged export": ("a damaged export", "make the export again: delete `export/` and start the same command"),
        "hub unreachable": (
            "the hub does not answer, or does not have the model",
            "nash_jax asks once and does not wait; a model in the cache is used without the hub",
        ),
        "tokenizer not on the hub": ("the same for a tokenizer", "as above"),
        "data set unreachable": ("the same for a data set", "as above"),
        "match:reference has num_heads=4": (
            "the reference is not the model that was pruned",
            "same family, no part smaller",
        ),
        "match:expected no more than the model's": (
            "lengths beyond a model's positions",
            "use shorter ones, or a model with relative positions (T5's families)",
        ),
        "match:model_type 'led': sparse attention is not implemented; expected one of": (
            "an encoder-decoder of `transformers` that nash_jax does not have; the reason is said",
            "a model of [these families](checkpoints.md#families)",
        ),
        "match:no source language; expected a language of the tokenizer: …; set config.task.source_language": (
            "a multilingual model, and no language of the inputs; the same for the targets",
            "[the languages of a task](own_data.md)",
        ),
        "match:config.task.… is 'de_DE', and the tokenizer … has no languages": (
            "a language for a model that is not multilingual",
            "",
        ),
        "match:not a model; … merge_and_unload(), then": (
            "a folder with a LoRA or another adapter of PEFT, without the model that it belongs to",
            "load both with PEFT, `merge_and_unload()`, `save_pretrained`",
        ),
        "match:model.safetensors holds quantized weights": (
            "weights of 8 or 4 bits, as bitsandbytes and others save them",
            "save the model as it was before, or `dequantize()` it in transformers",
        ),
        "match:holds a dict, not only tensors; …; save its": (
            "a checkpoint of training in PyTorch (Lightning's, for one), with more than the weights",
            "save the weights alone, with `torch.save`",
        ),
        "match:was changed since nash_jax wrote it; expected a new folder": (
            "another program, or you, wrote a file of an earlier save since; it would be lost",
            "save to another folder, or move that file away",
        ),
        "match:values that are inf or NaN; expected finite weights": (
            "weights that are no numbers, as after an overflow in float16",
            "save the model in float32 or bfloat16; it may have to be trained again",
        ),
        "match:no class of transformers for family 'custom'; expected one of": (
            "`save_hf` of a model that `transformers` cannot express",
            "the export has it; [what is refused](checkpoints.md#what-is-refused)",
        ),
    },
    "Generation for files": {
        "--num_beems=4": ("a misspelt option", ""),
        "--typical_p=0.9": ("an option that is not supported", ""),
        "--num_beams=0": ("a wrong value", ""),
        "--num_return_sequences=2": ("options that contradict each other", ""),
        "--suppress_tokens=[259]": ("a token id that the model does not have", ""),
        "many": ("a word that is not a flag", ""),
        "--model=": ("no model", ""),
        "--input=": ("no input", ""),
        "--batch_size=0": ("a batch of no rows", ""),
        "--batch_size=x": ("a batch size that is not a number", ""),
        "--dtype=int16": ("a type that only CTranslate2 has", ""),
        "--engine=tensorrt": ("an engine that is not there", ""),
        "--dtype=float64": ("an unsupported type", ""),
        "--labels=yes": ("labels that are not a list of texts", "write JSON, in quotes for the shell"),
        "--return_scores": ("scores with an output that has no place for them", "name a `.jsonl` file"),
        "--do_sample=maybe": ("a flag that is neither true nor false", ""),
        "--temperature=abc": ("a number that is not a number", ""),
        "--early_stopping=maybe": ("a wrong choice", ""),
        "--suppress_tokens=[5,x]": ("a list that is not JSON", ""),
        "--column=document": ("`--column` for a file of lines", "leave it out"),
        "input absent.txt": ("the input does not exist", "the path is relative to the current folder"),
        "input rows.xlsx": ("a kind of file that is not read", "make it JSONL or CSV"),
        "input broken.csv": (
            "a quote is not closed, or text follows a closing quote",
            "nothing after that row is read: correct the quotes, or write the file again with a CSV writer",
        ),
        "input broken.jsonl": ("a line is not JSON", ""),
        "input other.jsonl": ("a row does not have the column", "`--column` names another"),
        "input done.jsonl": ("the column for the outputs is already there", ""),
        "model small": ("the tokenizer belongs to another model", ""),
        "model bare": ("no tokenizer", ""),
        "model ./none": ("the model folder does not exist", ""),
        "match:a text of … tokens; expected at most": (
            "a text is longer than the model can read",
            "split it, or cut it with `--truncate`",
        ),
        "output none/out.txt": ("the folder for the output does not exist", ""),
        "output ": ("the output is a folder", ""),
        "output out.txt.gz": ("a packed output", ""),
        "output out.json": ("a kind of file that is not written", ""),
        "output own.txt": ("the output exists and was not written by this command", ""),
        "output /proc/out.txt": ("the output cannot be written", ""),
        "match:out.txt holds results with num_beams=4, not 1": (
            "the output has other settings",
            "or use the settings that are named, to continue",
        ),
        "match:is being written by another process": ("two processes write the same output", ""),
    },
}
