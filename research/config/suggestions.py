"""Suggests the name that a user may have meant."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

NAME_CUTOFF = 0.6  # of difflib's similarity, below which names rather mislead
SYNONYM_CUTOFF = 0.8
SHORT_WORD = 4  # letters; so short a word resembles many others
SHORTEST_PART = 3  # letters of a word that are enough to recognise a name by

OPTION_SYNONYMS: Mapping[str, str] = {  # names of options and values; other words for them
    "identity": "residual shortcut resnet skip true on add addition sum preact",
    "none": "plain off no false null disabled vanilla",
    "off": "none no false null disabled",
    "full": "all everything exponents histograms",
    "norms": "on true default gradients gradient grads",
    "dense": "densenet concat concatenate",
    "inv_sqrt_depth": "sqrt_depth depth_scaled inv_sqrt stable",
    "stochastic_depth": "drop_path droppath layer_drop",
    "dropout": "shortcut_dropout",
    "glorot": "xavier xavier_normal glorot_normal",
    "glorot_uniform": "xavier_uniform",
    "he": "kaiming kaiming_normal kaiming_uniform he_normal he_uniform msra",
    "gaussian": "normal random_normal truncated_normal trunc_normal mean_field",
    "lecun": "lecun_normal lecun_uniform",
    "old_uniform": "uniform random_uniform standard default",
    "zeros": "zero zero_init constant",
    "batch": "bn batchnorm batch_norm batch_norm2d",
    "layer": "ln layernorm layer_norm",
    "group": "gn groupnorm group_norm",
    "rms": "rmsnorm rms_norm",
    "dyt": "dynamic_tanh",
    "silu": "swish",
    "relu": "rectifier rectified_linear leaky_relu prelu relu6",
    "linear": "identity none no null",
    "softsign": "soft_sign",
    "elu": "celu",
    "sigmoid": "logistic",
    "float16": "half fp16 f16 16 16_true",
    "bfloat16": "bf16 bf16_true brain",
    "float32": "fp32 f32 single float full 32 32_true tf32",
    "float64": "fp64 f64 double 64 64_true",
    "mixed_float16": "amp mixed mixed_precision 16_mixed fp16_mixed mixed_fp16",
    "mixed_bfloat16": "bf16_mixed mixed_bf16",
    "float8_e4m3": "fp8 float8 f8 e4m3 e4m3fn 8",
    "float8_e5m2": "e5m2",
    "float4_e2m1": "fp4 float4 f4 e2m1 e2m1fn nvfp4 mxfp4 4",
    "mlp": "dense fc ffn fully_connected feedforward feed_forward perceptron",
    "cnn": "convnet conv vgg lenet alexnet",
    "resnet": "resnet18 resnet34 resnet50 resnet101 resnet152 imagenet_resnet",
    "resnet_cifar": "resnet20 resnet32 resnet44 resnet56 resnet110",
    "rnn": "lstm gru recurrent elman",
    "transformer": "gpt gpt2 bert vit llm encoder decoder attention",
    "elman": "rnn simple vanilla",
    "rotary": "rope",
    "learned": "absolute embedding",
    "momentum": "sgdm sgd_momentum heavy_ball",
    "nesterov": "nag nesterov_momentum sgd_nesterov",
    "gd": "gradient_descent full_batch",
    "rmsprop": "rms",
    "adam": "adamax nadam amsgrad radam lamb adabelief adafactor",
    "adagrad": "adadelta",
    "muon": "shampoo soap",
    "cross_entropy": "ce nll xent softmax log_loss logistic bce categorical_crossentropy",
    "mse": "l2 mean_squared_error squared_error squared l2_loss quadratic mae l1 huber",
    "pre": "before pre_norm first",
    "post": "after post_norm last",
    "constant": "none fixed",
    "cosine": "cosine_decay cosine_annealing cosine_annealing_lr cos half_cosine sgdr",
    "warmup_cosine": "warmup_cosine_decay onecycle one_cycle cosine_onecycle cosine_with_warmup",
    "step": "piecewise piecewise_constant multistep multi_step step_lr staircase",
    "warmup": "linear_warmup",
    "exponential": "exp exponential_decay",
    "polynomial": "poly",
    "global_norm": "norm clip_by_global_norm l2 true",
    "value": "clip elementwise element clip_by_value",
    "adaptive": "agc adaptive_grad_clip",
    "auto": "default cpu gpu cuda tpu",
    "data_parallel": "dp ddp multi_gpu",
    "distributed": "multi_host slurm",
    "wandb": "on true online offline weights_and_biases",
    "quick": "fast true on debug smoke test dev",
    "digits": "sklearn_digits load_digits",
    "fashion_mnist": "fmnist fashion",
    "cifar10": "cifar",
    "svhn_cropped": "svhn",
    "imagenet2012": "imagenet ilsvrc imagenet1k",
    "tiny_shakespeare": "shakespeare",
    "imdb_reviews": "imdb",
    "noise": "random synthetic gaussian",
    "folder": "images image_folder directory",
    "arrays": "numpy npz array npy",
    "function": "regression toy sine",
}
SETTING_SYNONYMS: Mapping[str, str] = {  # paths of settings and groups; other words for them
    "model": "arch architecture network net backbone model_name model_type",
    "data": "dataset dataset_name datasets task",
    "activation": "activations act act_fn act_fun nonlinearity non_linearity activation_fn "
    "activation_function activation_type hidden_act phi",
    "init": "initializer initialiser initialization initialisation weight_init kernel_init "
    "init_method init_scheme inits",
    "norm": "normalization normalisation norm_layer normalizer norm_type norms use_norm",
    "optimizer": "optim optimiser opt opt_name solver optimizers",
    "skip": "residual residuals shortcut shortcuts skip_connection skip_connections skips "
    "connection use_skip",
    "precision": "dtype float_type fp16 amp bf16 mixed_precision float_precision param_dtype",
    "loss": "criterion objective loss_fn loss_function",
    "measure": "gauges log_gradients track_grads measurement measurements",
    "tracker": "logger logging log trackers",
    "mesh": "device devices gpu gpus accelerator num_devices num_gpus strategy sharding cuda",
    "experiment": "exp experiments reproduce",
    "seed": "random_seed rng rng_seed random_state manual_seed prng seeds",
    "name": "run_name experiment_name exp_name study study_name run_id output_name",
    "train": "trainer training",
    "train.steps": "max_steps num_steps iterations iters max_iters num_iterations updates "
    "train_steps n_steps total_steps num_train_steps n_iters",
    "train.epochs": "num_epochs n_epochs max_epochs epoch",
    "train.batch_size": "bs batch batchsize minibatch minibatch_size train_batch_size n_batch "
    "micro_batch_size",
    "train.eval_every": "eval_interval eval_steps eval_freq val_every val_check_interval "
    "test_every eval_frequency",
    "model.depth": "layers num_layers n_layers nlayers n_layer num_blocks n_blocks blocks "
    "num_hidden_layers time_steps",
    "model.width": "hidden hidden_size hidden_dim hidden_units units channels d_model dim "
    "embed_dim n_embd features num_features num_units neurons num_channels filters n_hidden",
    "model.heads": "num_heads n_head n_heads nhead attention_heads num_attention_heads",
    "model.expansion": "mlp_ratio ffn_ratio widening_factor d_ff ff_dim",
    "model.dropout": "dropout_rate drop_rate dropout_prob dropout_p p_dropout p",
    "model.bias": "use_bias biases with_bias",
    "model.recompute": "remat gradient_checkpointing activation_checkpointing",
    "model.positions": "position_embedding positional_encoding pos_embed pos_encoding",
    "model.tied": "tie_weights tie_embeddings tied_embeddings tie_word_embeddings",
    "model.cell": "rnn_type cell_type",
    "model.padding": "padding_mode pad",
    "optimizer.learning_rate": "lr learningrate init_lr base_lr eta step_size peak_lr max_lr lrate "
    "init_value peak_value",
    "optimizer.weight_decay": "wd l2 l2_reg decay weightdecay",
    "optimizer.momentum": "mu",
    "optimizer.beta1": "b1 beta_1 betas",
    "optimizer.beta2": "b2 beta_2",
    "optimizer.epsilon": "eps",
    "optimizer.schedule": "scheduler lr_scheduler lr_schedule lr_decay sched schedulers "
    "learning_rate_schedule",
    "optimizer.warmup_steps": "warmup num_warmup_steps warmup_iters warmup_epochs warmup_ratio",
    "optimizer.decay_steps": "t_max cosine_steps",
    "optimizer.boundaries": "milestones boundaries_and_scales decay_epochs lr_steps",
    "optimizer.decay_factor": "gamma lr_gamma scales",
    "optimizer.end_value": "min_lr eta_min final_lr lr_min lr_end end_lr alpha",
    "optimizer.clip_threshold": "clip_norm grad_clip gradient_clip max_grad_norm max_norm clipnorm "
    "gradient_clip_val clip_value clip_grad clip_grad_norm grad_clip_norm grad_norm_clip clipping "
    "gradient_clipping grad_clipping",
    "loss.label_smoothing": "smoothing smooth",
    "data.limit": "max_samples num_samples n_samples max_examples subset train_size num_train "
    "num_examples",
    "data.length": "seq_len sequence_length block_size context_length max_length max_len "
    "seq_length context",
    "data.classes": "num_classes n_classes",
    "data.raw_dir": "data_dir data_root root download_dir",
    "data.path": "file filename",
    "data.size": "image_size img_size resolution",
    "data.shape": "input_shape input_dim input_size in_features",
    "data.eval_split": "val_split test_split valid_split validation_split",
    "init.gain": "init_scale weight_scale scale",
    "init.sigma_w": "sigma std init_std stddev",
    "init.sigma_b": "bias_std sigma_bias",
    "skip.rate": "drop_path drop_path_rate survival_prob",
    "skip.branch_scale": "alpha residual_scale layer_scale scale",
    "norm.groups": "num_groups n_groups",
    "norm.placement": "pre_norm post_norm norm_first position norm_position",
    "precision.loss_scaling": "grad_scaler loss_scaler dynamic_loss_scale scaler",
    "measure.every": "measure_every log_grads_every",
    "tracker.wandb": "use_wandb log_wandb enable_wandb",
    "tracker.tensorboard": "use_tensorboard tensorboard_dir log_tensorboard tb_dir",
    "tracker.mlflow": "use_mlflow log_mlflow mlflow_tracking_uri",
    "tracker.project": "wandb_project project_name",
    "tracker.entity": "wandb_entity team",
    "tracker.every": "log_every log_interval log_every_n_steps logging_steps log_freq",
    "tracker.dir": "wandb_dir",
    "checkpoint.every": "save_every save_interval save_steps ckpt_every checkpoint_every interval "
    "save_freq checkpoint_interval",
    "checkpoint.keep": "save save_last keep_last save_checkpoint save_checkpoints",
    "hydra.run.dir": "output_dir out_dir save_dir log_dir logdir run_dir outdir output out "
    "results_dir work_dir",
}
COMMAND_SYNONYMS: Mapping[str, str] = {
    "train": "run sweep fit start launch",
    "runs": "list ls ps status",
    "show": "view cat inspect info",
    "figure": "figures",
    "plot": "draw graph chart curve curves",
    "table": "summary aggregate latex mean",
    "compare": "diff difference versus vs",
    "landscape": "surface valley",
    "replay": "rerun repeat debug",
    "sync": "upload push",
    "report": "html page summary",
    "dash": "dashboard ui serve server web board",
    "rm": "remove delete del",
    "completion": "completions autocomplete tab",
    "bench": "benchmark profile",
    "reproduce": "experiment repro",
}


def format_suggestion(
    word: str,
    words: Iterable[str],
    synonyms: Mapping[str, str] = OPTION_SYNONYMS,
) -> str:
    """``; did you mean X?`` where a name, or another word for it, is similar, otherwise nothing.

    Args:
        word: what the user wrote.
        words: the names that are valid.
        synonyms: other words for names, separated by blanks.
    """
    name = find_nearest(word, words, synonyms)
    return f"; did you mean {name}?" if name else ""


def find_nearest(
    word: str,
    words: Iterable[str],
    synonyms: Mapping[str, str] = OPTION_SYNONYMS,
) -> str | None:
    """The name most similar to ``word``, or that ``word`` is another word for.

    Capitals, blanks, hyphens and underscores make no difference. A name or a synonym that is equal
    comes first, then one that is similar, then one that begins ``word`` or is a part of it.

    Args:
        word: what the user wrote.
        words: the names that are valid.
        synonyms: other words for names, separated by blanks.
    """
    names = list(words)
    meanings = _meanings(names, synonyms)
    written = _plain(word)
    if written in meanings:
        return meanings[written]
    plain_names = [_plain(name) for name in names]
    cutoff = SYNONYM_CUTOFF if len(written) <= SHORT_WORD else NAME_CUTOFF
    close = difflib.get_close_matches(written, plain_names, n=1, cutoff=cutoff)
    close += difflib.get_close_matches(written, list(meanings), n=1, cutoff=SYNONYM_CUTOFF)
    if close:
        return meanings[close[0]]
    for name, plain in zip(names, plain_names, strict=True):
        if len(written) > 2 and sorted(plain) == sorted(written):  # skpi, whose similarity is 0.75
            return name
    return _share_a_part(word, meanings)


def is_synonym(
    word: str,
    name: str,
    synonyms: Mapping[str, str],
) -> bool:
    """Whether ``word`` is listed as another word for ``name``."""
    others = [_plain(other) for other in synonyms.get(name, "").split()]
    return _plain(word) in others


def _meanings(words: Sequence[str], synonyms: Mapping[str, str]) -> dict[str, str]:
    """The name that each word stands for. Names come before synonyms."""
    meanings = {}
    for name in words:
        meanings.setdefault(_plain(name), name)
    for name in words:
        for other in synonyms.get(name, "").split():
            meanings.setdefault(_plain(other), name)
    return meanings


def _plain(word: str) -> str:
    return re.sub(r"[\s_-]", "", word).lower()


def _share_a_part(word: str, meanings: Mapping[str, str]) -> str | None:
    """The name that begins ``word``, begins with it, or is one of its parts."""
    written = _plain(word)
    if len(written) < 2:
        return None
    for other, name in meanings.items():
        if other.startswith(written):
            return name
    parts = [_plain(part) for part in re.split(r"[\s_.-]", word)]
    for part in reversed(parts):  # the last part of cross_entropy_loss or adam_optimizer matters
        if len(part) >= SHORTEST_PART and part in meanings:
            return meanings[part]
    beginnings = []
    for other in meanings:
        if len(other) >= SHORTEST_PART and written.startswith(other):
            beginnings.append(other)
    return meanings[max(beginnings, key=len)] if beginnings else None
