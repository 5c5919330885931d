"""Associated Learning, Table 4: the networks of Table 3 on CIFAR-100."""

from experiments.lab import figures
from experiments.lab.experiment import Experiment
from experiments.lab.main import main
from experiments.papers.al.shared import TABLE4, cnn, distances, jittered, mlp, pair, resnet, vgg

CLASSES = 100
NETS = {
    "mlp": (mlp(3000, classes=CLASSES), ((26.5, 0.4), (29.7, 0.2))),
    "cnn": (cnn(CLASSES), ((51.1, 0.2), (52.2, 0.5))),
    "resnet20": (resnet(20, CLASSES), ((63.7, 0.2), (61.0, 0.6))),
    "resnet32": (resnet(32, CLASSES), ((63.7, 0.3), (59.0, 1.6))),
    "vgg": (vgg(CLASSES), ((65.8, 0.3), (67.1, 0.3))),
}

EXPERIMENT = Experiment(
    module="papers.al.table4",
    name=TABLE4,
    title="Associated Learning, Table 4: CIFAR-100",
    source="Kao and Chen 2021, Table 4",
    rows={
        row: case._replace(measure=distances)
        for name, (net, papers) in NETS.items()
        for row, case in pair(name, net, "cifar100", papers, jittered).items()
    },
    note=(
        "The settings of Table 3. The paper increased the number of units of the bridges by an amount that it does not "
        "give; here they are those of Table 3."
    ),
    draw=figures.curves("al_table4", "CIFAR-100", loss=False),
)

if __name__ == "__main__":
    main(EXPERIMENT)
