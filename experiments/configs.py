"""What can be asked of the training of an image network; see :mod:`colnorm.tasks.configs`."""

from typing import Annotated, Literal

from annotated_types import Interval
from pydantic.dataclasses import dataclass

from colnorm.resnet import Normalization, NormPlacement
from colnorm.tasks.configs import CHECKED, Count, Fraction, NotNegative, Positive, Seed, Size


@dataclass(frozen=True, config=CHECKED)
class ImageConfig:
    """A ResNet on images. Rates are per step, epochs count from 1."""

    normalization: Normalization = "bn"
    """nn none, bn batch, in instance, bin batch-instance, ln layer, gn group, flax_bn Flax's own batch norm."""
    norm_placement: NormPlacement = "before_addition"
    """Of a block's second norm: before the shortcut is added (He et al.), or after it, before the activation (the report)."""
    num_groups: Literal[1, 2, 4, 8, 16] = 16
    """Of gn; they must divide 16."""
    n: Count = 2
    """Blocks in each of the three stages: the network has 6n+2 layers."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of convolutions and features; statistics, loss and parameters stay float32."""

    data: Literal["cifar10", "digits"] = "cifar10"
    """cifar10, or the 1,797 handwritten digits that come with scikit-learn."""
    data_dir: str | None = None
    """Directory with CIFAR-10's binary or python version; without one tensorflow-datasets fetches it."""
    crop_padding: Annotated[int, Interval(ge=0, lt=32)] = 0
    """Random crops out of images reflected by this many pixels on each side; 0 for none. Drawn on the device."""
    flip: bool = False
    """Mirror every other training image at random. Evaluation then also reports what the mean of both ways gets right."""
    alternate_flips: bool = False
    """Of --flip: mirror a random half of the images in one epoch and the other half in the next."""
    cut_out: Size = 0
    """Set a square of this many pixels of every training image to the mean colour; 0 for none."""
    small_epochs: Size = 0
    """In so many first epochs images are scaled down to small_size."""
    small_size: Annotated[int, Interval(ge=4, le=32)] = 24
    """Pixels of a side."""

    zero_residual: bool = False
    """Blocks that keep their channels begin as their shortcuts: the last norm's scale, without a norm the last kernel, is 0."""
    whiten: bool = False
    """Begin with first filters that whiten the patches of the training images."""

    epochs: Count = 100
    """Epochs at most."""
    batch_size: Count = 128
    """Images in a step, over all devices."""
    learning_rate: Positive = 0.1
    """At the start, or at its peak with the cosine schedule."""
    schedule: Literal["constant", "decay", "step", "cosine"] = "constant"
    """constant; decay (by decay_factor after every epoch); step (after each of decay_epochs); cosine (to 0, after warm-up)."""
    decay_factor: Positive = 0.1
    """What the decay and step schedules multiply with."""
    decay_epochs: tuple[Count, ...] = ()
    """Epochs after which the step schedule drops."""
    warmup_epochs: NotNegative = 0.0
    """Linear warm-up of the cosine schedule."""
    momentum: Fraction = 0.9
    """Fraction of the momentum buffer, and of Muon's moment, kept at a step."""
    nesterov: bool = False
    """Nesterov momentum."""
    weight_decay: NotNegative = 1e-4
    """L2 coefficient, added to the gradient."""
    muon_learning_rate: Positive | None = None
    """Train convolution kernels by Muon, at this learning rate and in the same schedule; None trains all by SGD."""
    muon_weight_decay: NotNegative = 0.0
    """Of Muon: decoupled, in units of the learning rate."""
    decay_vectors: bool = True
    """Decay biases, scales and gates too, as PyTorch's SGD does."""
    gate_multiplier: Positive = 1.0
    """Learning rate of batch-instance gates in units of the others'; with any but 1 they have no weight decay."""
    norm_bias_multiplier: Positive = 1.0
    """Learning rate of normalizations' biases in units of the others'."""
    clip_global_norm: Positive | None = None
    """Scale longer gradients down to this L2 norm; of what SGD trains, as Muon heeds no length."""
    label_smoothing: Fraction = 0.0
    """Training targets are 1 - s for the label plus s spread over all classes; evaluation is never smoothed."""
    average_decay: Fraction = 0.0
    """Evaluate and keep an exponential moving average of the parameters with this decay; 0 for none."""

    patience: Count | None = 10
    """Stop after this many epochs without a better validation accuracy, counted from the step schedule's last drop on; None
    trains all epochs."""
    stream: bool = False
    """Keep the data with the host and send each batch, for data that is too large for the devices."""
    seed: Seed = 0
    """Of parameters, order, augmentation, and the split into training and validation data."""
    devices: Count | None = None
    """Devices to split each batch over, of each process; all by default.
    On a CPU this many virtual ones are made (by default one a core)."""
