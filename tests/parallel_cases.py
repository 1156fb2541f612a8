"""Two epochs of training that any engine can run; as a program, one of two processes with two CPU devices each.

python tests/parallel_cases.py PROCESS PORT FILE   writes what it trained to FILE (npz)
"""

import os
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from resnet_cases import random_variables

from colnorm import optimizers
from colnorm.data import images
from colnorm.data.batching import padded_batches, shuffled_batches
from colnorm.training import TrainState
from experiments import images as task
from experiments.configs import ImageConfig

SIZE, BATCH = 37, 16  # two steps an epoch, and batches of 16, 16 and 5 to evaluate
CONFIG = ImageConfig(n=1, crop_padding=2, flip=True, label_smoothing=0.1)


def make_data():
    """Noise: nothing that training could rely on but the arithmetic."""
    rng = np.random.default_rng(0)
    split = images.Split(rng.integers(0, 256, (SIZE, 8, 8, 3), dtype=np.uint8), rng.integers(0, 10, SIZE).astype(np.int32))
    half = np.full(3, 0.5, np.float32)
    return images.ImageData("noise", tuple("0123456789"), split, split, split, half, half / 2)


def make_state(model):
    """With everything that the optimizer can do, and no compiled initialization."""
    variables = random_variables(model)
    tx = optimizers.sgd(optimizers.constant(0.05), weight_decay=1e-3, clip_global_norm=1.0, gate_multiplier=10.0, nesterov=True)
    return TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=tx,
        batch_stats=variables.get("batch_stats", {}),
        seed=jnp.asarray(3, jnp.uint32),
    )


def train(engine, state, data, epochs=(1, 2)):
    """The state after the epochs, the sums of each of their steps, and those of an evaluation."""
    split = engine.put_data(task.split_arrays(data.train))
    state = engine.put_state(state)
    steps = []
    for epoch in epochs:
        state, sums = engine.train_epoch(state, split, shuffled_batches(SIZE, BATCH, 0, epoch))
        steps.append(sums)
    return engine.get_state(state), steps, engine.evaluate(state, split, padded_batches(SIZE, BATCH))


def named_arrays(tree):
    """{name: array} of what :func:`train` returns."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def main(process, port, file):
    from tiny_training import tiny

    from colnorm.parallel import make_engine

    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(process))
    data = make_data()
    with tiny():
        state, losses = make_state(task.make_model(CONFIG, 10)), partial(task.make_loss, CONFIG, data)
        try:
            make_engine(losses, 1)
        except ValueError as error:
            refused = str(error)
        engine = make_engine(losses, 2)
        arrays = named_arrays(train(engine, state, data))
    np.savez(file, refused=refused, num_devices=engine.num_devices, **arrays)


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    main(*sys.argv[1:])
