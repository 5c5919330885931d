"""Associated Learning, Table 4: the networks of Table 3 on CIFAR-100."""

from functools import partial

from experiments.lab import figures
from experiments.lab.experiment import Experiment
from experiments.lab.main import main
from experiments.papers.al.shared import LETTERS_FOLD, TABLE4, cnn, compared, mlp, of_rows, resnet, rows_on_cifar, vgg

CLASSES = 100
WIDE = 500  # units of the codes: of the ResNets and VGG in the code, and of the vanilla CNN, for which see the note
DECAY = 5e-4, 1e-4  # the ResNets' L2 in BP and in AL, in the code
NETS = {
    "mlp": (mlp(3000, classes=CLASSES), ((26.5, 0.4), (29.7, 0.2))),
    "cnn": (cnn(CLASSES, WIDE), ((51.1, 0.2), (52.2, 0.5))),
    "resnet20": (resnet(20, CLASSES, WIDE, DECAY), ((63.7, 0.2), (61.0, 0.6))),
    "resnet32": (resnet(32, CLASSES, WIDE, DECAY), ((63.7, 0.3), (59.0, 1.6))),
    "vgg": (vgg(CLASSES, WIDE), ((65.8, 0.3), (67.1, 0.3))),
}
ARXIV = {  # Table 3 of the arXiv version
    "mlp": (26.9, 31.2),
    "cnn": (51.0, 52.4),
    "resnet20": (63.8, 60.2),
    "resnet32": (63.8, 60.5),
    "vgg": (70.8, 67.5),
}

EXPERIMENT = Experiment(
    module="papers.al.table4",
    name=TABLE4,
    title="Associated Learning, Table 4: CIFAR-100",
    source="Kao and Chen 2021, Table 4",
    rows=rows_on_cifar(NETS, (cnn(CLASSES, WIDE, LETTERS_FOLD), (52.2, 0.5)), "cifar100"),
    note=(
        "The settings of Table 3, but wider codes and bridges: the letter says that it has widened the bridges, and "
        "its code has codes of 500 units for the ResNets and VGG, and 3000 for the MLP as on CIFAR-10. For the "
        "vanilla CNN we take 500, too. The ResNets' L2 is the code's: 5e-4 for backpropagation, and 1e-4 for AL. The "
        "last column has the numbers of the first version on arXiv, in which backpropagation wins on VGG."
    ),
    tables=(partial(compared, {"arXiv's test %": of_rows(ARXIV)}),),
    draw=figures.curves("al_table4", "CIFAR-100", loss=False),
)

if __name__ == "__main__":
    main(EXPERIMENT)
