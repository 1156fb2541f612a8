"""Run where nothing but the wheel is installed: layers, a CRF and the command work, and the study's packages aren't missed."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import colnorm
from colnorm import LSTM, BatchNorm, crf

assert "site-packages" in Path(colnorm.__file__).parts, colnorm.__file__
for absent in ("experiments", "matplotlib", "sklearn", "pydantic"):
    assert importlib.util.find_spec(absent) is None, absent
x = jax.random.normal(jax.random.key(0), (8, 5, 4))
y, updated = BatchNorm().init_with_output(jax.random.key(1), x, use_running_average=False)
assert y.shape == x.shape and abs(float(y.mean())) < 1e-6 and updated["batch_stats"]["mean"].shape == (4,)
assert LSTM(3).init_with_output(jax.random.key(2), x, jnp.arange(8) % 6)[0].shape == (8, 5, 3)
chain = crf.constrain(crf.Chain.zeros(3), ["O", "B-per", "I-per"])
tags, score = crf.viterbi(chain, x[..., :3])
assert tags.shape == (8, 5) and bool((crf.log_likelihood(chain, x[..., :3], tags) <= 1e-5).all())
try:
    from colnorm.data import images

    images.load("digits")
except ModuleNotFoundError as error:
    assert "colnorm[study]" in str(error), error
else:
    raise AssertionError("the digits come with scikit-learn, which is not installed")
colnorm_command = str(Path(sys.executable).with_name("colnorm"))
done = subprocess.run([colnorm_command, "train"], capture_output=True, encoding="utf-8")
assert done.returncode == 1 and "pip install 'colnorm[train]'" in done.stderr, done.stderr
command = [colnorm_command, "tag", "--format", "json", "Mr. Annan flew to Geneva."]
began = time.perf_counter()
done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
entities = {(entity["type"], entity["text"]) for entity in json.loads(done.stdout)["entities"]}
assert ("geo", "Geneva") in entities, done.stdout
print(f"colnorm tag answered in {time.perf_counter() - began:.1f} s: {entities}")
print(f"colnorm {colnorm.__version__}: a layer, an LSTM and a CRF from the wheel alone")
