"""What people of other tools type, and the right word here: first these tables, then the same letters in any case."""

import re
from collections.abc import Collection
from functools import cache

# Key to what it is called elsewhere, in any case and with `-` or nothing for `_`; a dotted word counts by its end, too.
# Where a word stands twice the first key that is there is meant.
_KEYS = {
    "model": "arch architecture net network model_name model_type",
    "data": "dataset ds data_name dataset_name datamodule data_set task_name",
    "loss": "criterion loss_fn loss_function objective cost loss_name loss.name loss.type",
    "optimizer": "optim opt optimiser solver optimizer_name opt_name optimizer.name optimizer.type",
    "scheduler": "sched lr_scheduler lr_schedule schedule lr_sched lr_policy scheduler_name "
    "scheduler.name scheduler.type",
    "experiment": "exp recipe config cfg preset",
    "optimizer.lr": "lr learning_rate lrate base_lr init_lr initial_lr initial_learning_rate lr0 learningrate_init eta",
    "optimizer.momentum": "momentum mom",
    "optimizer.weight_decay": "weight_decay wd l2 l2_reg decay weightdecay",
    "optimizer.betas": "betas beta adam_betas",
    "optimizer.nesterov": "nesterov",
    "max_epochs": "epochs epoch n_epochs num_epochs num_train_epochs total_epochs max_epoch train_epochs e",
    "max_steps": "steps n_steps num_steps iterations iters n_iter num_iter max_iter max_iters num_iterations n_iters "
    "train_steps num_training_steps total_iters max_iterations",
    "max_time": "max_minutes max_hours time_limit max_seconds timeout",
    "batch_size": "batch bs b batchsize train_batch_size per_device_train_batch_size minibatch mini_batch_size "
    "batch_sz per_gpu_batch_size global_batch_size",
    "seed": "random_seed random_state manual_seed rng_seed rng global_seed seed_everything",
    "device": "dev accelerator",
    "threads": "num_threads n_threads cpu_threads torch_threads omp_num_threads intra_op_threads",
    "deterministic": "cudnn_deterministic reproducible",
    "compile": "torch_compile compile_model use_compile",
    "cuda_graphs": "cuda_graph cudagraphs cudagraph use_cuda_graph use_cuda_graphs",
    "channels_last": "memory_format nhwc use_channels_last",
    "name": "run_name exp_name experiment_name run_id",
    "run_dir": "output_dir output out out_dir save_dir log_dir logdir logging_dir work_dir workdir default_root_dir",
    "resume": "ckpt ckpt_path checkpoint_path load load_from resume_from resume_from_checkpoint resume_path restore",
    "eval_every": "val_every eval_steps val_check_interval eval_interval validate_every val_interval eval_freq "
    "eval_strategy evaluation_strategy",
    "checkpoint.every": "save_every save_steps save_freq save_interval checkpoint_every ckpt_every",
    "checkpoint.keep": "save_total_limit save_top_k keep_last",
    "checkpoint.metric": "metric_for_best_model",
    "console.every": "print_every print_freq log_interval",
    "monitor.every": "log_every log_every_n_steps logging_steps log_freq",
    "gradient.clip_norm": "clip clip_norm grad_clip max_grad_norm clip_grad clip_grad_norm gradient_clip_val "
    "gradient_clip clipnorm grad_norm_clip max_norm grad_clip_norm",
    "gradient.clip_value": "clip_value clipvalue grad_clip_value",
    "gradient.accumulate": "accumulate grad_accum accumulation_steps gradient_accumulation_steps accum_iter "
    "accumulate_grad_batches grad_accumulation gradient_accumulation",
    "early_stopping.patience": "patience early_stopping_patience early_stop_patience early_stopping early_stop",
    "scheduler.patience": "patience lr_patience",
    "scheduler.warmup_steps": "warmup warmup_steps num_warmup_steps warmup_iters",
    "scheduler.gamma": "gamma lr_gamma lr_decay_rate",
    "scheduler.step_size": "step_size lr_step lr_step_size",
    "scheduler.milestones": "milestones lr_milestones",
    "model.hidden_features": "hidden hidden_size hidden_dim hidden_units num_hidden n_hidden hidden_dims units "
    "hidden_layer_sizes hidden_channels d_hidden",
    "model.dropout": "dropout drop drop_rate dropout_rate dropout_p p",
    "model.kernel_size": "kernel kernel_size ksize filter_size",
    "model.num_classes": "num_classes n_classes num_labels nb_classes",
    "model.in_channels": "in_channels in_chans input_channels num_channels",
    "model.weights": "pretrained weights init_weights checkpoint",
    "data.path": "file csv train_file data_file data_path dataset_path filename",
    "data.root": "root data_dir data_root dataset_dir img_dir image_dir train_dir data_path",
    "data.targets": "target targets label labels target_column label_column y",
    "data.limit": "limit subset max_samples limit_train_batches num_train_samples train_size",
    "data.image_size": "image_size img_size imgsz resize input_size",
    "data.num_workers": "num_workers workers n_workers dataloader_num_workers num_data_workers loader_workers j",
    "data.cache": "cache_images image_cache disk_cache cache_dir",
    "data.val_fraction": "val_split validation_split val_fraction val_size val_ratio",
    "data.test_fraction": "test_split test_size test_ratio",
    "loss.label_smoothing": "label_smoothing smoothing",
    "loss.class_weights": "class_weight class_weights",
    "loss.teacher": "teacher teacher_model distillation",
    "data.balance": "balanced weighted_sampler oversample balanced_sampling",
    "data.augment.mixup": "mixup mixup_alpha",
    "data.augment.cutmix": "cutmix cutmix_alpha",
    "data.augment.policy": "aa auto_augment autoaugment randaugment trivialaugment",
    "data.augment.erase": "reprob random_erase random_erasing erasing",
    "data.augment.color_jitter": "color_jitter colorjitter",
    "optimizer.layer_decay": "layer_decay llrd layer_wise_lr_decay",
    "model.freeze": "freeze frozen freeze_layers",
    "gradient.checkpoint": "gradient_checkpointing grad_checkpointing activation_checkpointing",
    "overfit": "overfit_batches overfit_samples",
    "profile": "profiler",
}
# What is said otherwise: the words to type where the value is true, a number or left out, and where it is false.
_WORDS = {
    "gpu gpus devices use_gpu cuda use_cuda n_gpu num_gpus": ("device=auto", "device=cpu"),
    "cpu no_cuda no_gpu use_cpu": ("device=cpu", "device=auto"),
    "mps use_mps": ("device=mps", "device=auto"),
    "fp16 half float16": ("precision=float16", "precision=float32"),
    "bf16 bfloat16 amp use_amp mixed_precision autocast mixed": ("precision=bfloat16", "precision=float32"),
    "fp32 float32": ("precision=float32", "precision=bfloat16"),
    "fp64 double float64": ("dtype=float64", "dtype=float32"),
    "dryrun": ("dry_run=true", "dry_run=false"),
    "tensorboard use_tensorboard logger logging": ("monitor=full", "monitor=off"),
    "fast_dev_run debug smoke_test": ("max_steps=1", "max_steps=null"),
    "multi_run sweep": ("--multirun", ""),
}
# Key to value to what it is called elsewhere. Of a group the values are its options.
_VALUES = {
    "model": {
        "two_layer": "mlp twolayernet perceptron fc dense feedforward",
        "lenet": "cnn lenet5 convnet conv",
        "resnet18": "resnet res_net",
        "sequential": "seq nn_sequential layers",
        "frozen_resnet": "finetune fine_tune transfer pretrained pretrained_resnet",
    },
    "data": {
        "digits": "optdigits sklearn_digits load_digits",
        "fashion_mnist": "fmnist fashion",
        "cifar10": "cifar",
        "image_folder": "folder images photos imagenet_folder",
        "arrays": "csv npz npy numpy table tabular array tensor",
        "random_regression": "random regression synthetic noise",
    },
    "loss": {
        "cross_entropy": "ce crossentropyloss xent categorical_crossentropy sparse_categorical_crossentropy softmax "
        "log_loss softmax_cross_entropy celoss",
        "nll": "nllloss negative_log_likelihood",
        "bce": "bceloss binary_crossentropy binary_cross_entropy",
        "bce_with_logits": "bcewithlogitsloss bcelogits binary_cross_entropy_with_logits sigmoid_cross_entropy",
        "mse": "mseloss l2 l2loss mean_squared_error squared_error quadratic",
        "l1": "mae l1loss mean_absolute_error absolute_error",
        "huber": "huberloss",
        "smooth_l1": "smoothl1loss smoothl1",
        "poisson_nll": "poisson poissonnllloss poisson_loss",
        "kl_div": "kl kldivloss kld kl_divergence kullback_leibler kullback_leibler_divergence",
        "multi_margin": "multimarginloss hinge svm categorical_hinge multiclass_hinge squared_hinge",
        "dice": "diceloss dice_loss f1_loss",
        "focal": "focalloss focal_loss categorical_focal_crossentropy",
        "sum_squared_error": "sse sum_of_squares",
        "composite": "multi sum weighted",
    },
    "optimizer": {
        "sgd": "gd gradient_descent momentum nesterov stochastic_gradient_descent",
        "rmsprop": "rms",
        "adamw": "adamw_torch adam_w",
    },
    "scheduler": {
        "constant": "none no off null false fixed const flat",
        "step": "steplr step_lr",
        "multistep": "multisteplr",
        "exponential": "exponentiallr exp",
        "cosine": "cosineannealing cosineannealinglr cos cosine_decay",
        "warmup_cosine": "warmup cosine_warmup cosine_with_warmup linear_warmup",
        "one_cycle": "onecyclelr 1cycle super_convergence",
        "plateau": "reducelronplateau reduce_on_plateau reduce",
    },
    "monitor": {
        "off": "none no null false disabled",
        "full": "true all on yes tensorboard tb",
        "scalars": "light simple minimal",
    },
    "device": {
        "auto": "gpu gpus 0 1 true best any gpu:0 gpu0 nvidia",
        "cpu": "none false no processor",
        "cuda": "cuda_gpu",
        "mps": "metal apple m1",
    },
    "precision": {
        "bfloat16": "bf16 bf16_mixed bfloat amp mixed true",
        "float16": "fp16 half 16 16_mixed f16",
        "float32": "fp32 32 32_true full single f32 float none null false",
    },
    "dtype": {"float32": "fp32 32 f32 float single", "float64": "fp64 64 double f64"},
    "batch_size": {"full": "all whole max entire dataset", "auto": "automatic largest power binsearch fit -1"},
    "on_nan": {"skip": "ignore continue", "stop": "raise error halt none null"},
    "model.init": {"kaiming": "he kaiming_normal", "xavier": "glorot xavier_uniform", "default": "none null"},
    "model.gradient": {"autograd": "auto torch backward", "numpy": "np", "tensors": "manual by_hand tensor"},
    "sweep.stack": {"always": "true yes on force", "never": "false no off none null"},
    "sweep.on_failure": {"continue": "ignore skip", "stop": "raise halt abort"},
    "model.weights": {"imagenet": "true yes default pretrained imagenet1k 1"},
    "data.task": {"classification": "classify class", "regression": "regress reg"},
}
# What comes first in other tools: a verb here, a flag, or nothing where a run is meant, which has no verb.
_VERBS = {
    "": "train fit run start training classify detect segment trainer main.py train.py",
    "evaluate": "val validate validation eval test testing score",
    "predict": "infer inference generate",
    "board": "tensorboard tb",
    "runs": "ls list history status",
    "show": "summary info describe",
    "find-lr": "lr_find find_lr tune_lr",
    "--multirun": "sweep search hpo grid_search",
    "--version": "version",
}
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_NOTHING = ("none", "nil", "nan", "undefined", "~", "nothing")


def letters(word: str) -> str:
    """The letters, digits and dots of a word alone, small: `Batch-Size`, `batch_size` and `batchsize` are the same."""
    return re.sub(r"[^a-z0-9.]", "", word.lower())


def keys_meant(key: str) -> list[str]:
    """The keys that are called so elsewhere, the likeliest first: `learning_rate` is `optimizer.lr`."""
    whole, last = letters(key), letters(key.rpartition(".")[2])
    found = _meant_keys()
    return [*found.get(whole, []), *found.get(last, [])]


def words_meant(key: str, value: str) -> str:
    """What is typed here for a key that has no counterpart, such as `gpu=0` or `fp16=true`; else an empty text."""
    when_true, when_false = _meant_words().get(letters(key.rpartition(".")[2]), ("", ""))
    return when_false if value.lower() in ("false", "no", "off", "none", "null") else when_true


def same_letters(word: str, known: Collection[str]) -> str | None:
    """The one of the known words that has the same letters, in any case: `MNIST`, `ResNet-18`, `torch.optim.SGD`."""
    wanted = (letters(word), letters(word.rpartition(".")[2]))
    pairs = ((wish.replace(".", ""), k) for wish in wanted for k in known)
    return next((k for wish, k in pairs if wish and letters(k).replace(".", "") == wish), None)


def value_meant(key: str, value: str, known: Collection[str]) -> str | None:
    """The one of the known values, or options of a group, that is called so elsewhere, or has the same letters."""
    if (same := same_letters(value, known)) is not None:
        return same
    wanted = {letters(value), letters(value.rpartition(".")[2])}
    called = ((right, set(map(letters, others.split()))) for right, others in _VALUES.get(key, {}).items())
    return next((right for right, names in called if right in known and wanted & names), None)


def verb_meant(word: str) -> str | None:
    """The verb or the flag that is called so elsewhere; empty for a run, which has none; None: no verb."""
    return next((right for right, others in _VERBS.items() if word.lower().replace("-", "_") in others.split()), None)


def flag_meant(value: str) -> str | None:
    """true or false, where it is said otherwise."""
    return "true" if value.lower() in _TRUE else "false" if value.lower() in _FALSE else None


def is_nothing(value: str) -> bool:
    """Whether it is what other languages say for null."""
    return value.lower() in _NOTHING


@cache
def _meant_keys() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for right, others in _KEYS.items():
        for word in others.split():
            found.setdefault(letters(word), []).append(right)
    return found


@cache
def _meant_words() -> dict[str, tuple[str, str]]:
    return {letters(word): words for others, words in _WORDS.items() for word in others.split()}
