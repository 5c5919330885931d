"""Associated Learning, Table 4: the networks of Table 3 on CIFAR-100."""

from functools import partial

from experiments.lab import study
from experiments.lab.study import Study
from experiments.papers.al import shared as associated
from experiments.papers.al.shared import jittered, pair

CLASSES = 100
NETS = {
    "mlp": (associated.mlp(3000, classes=CLASSES), ((26.5, 0.4), (29.7, 0.2))),
    "cnn": (associated.cnn(CLASSES), ((51.1, 0.2), (52.2, 0.5))),
    "resnet20": (associated.resnet(20, CLASSES), ((63.7, 0.2), (61.0, 0.6))),
    "resnet32": (associated.resnet(32, CLASSES), ((63.7, 0.3), (59.0, 1.6))),
    "vgg": (associated.vgg(CLASSES), ((65.8, 0.3), (67.1, 0.3))),
}

STUDY = Study(
    name="al_table4",
    title="Associated Learning, Table 4: CIFAR-100",
    source="Kao and Chen 2021, Table 4",
    cases={
        row: case
        for name, (net, papers) in NETS.items()
        for row, case in pair(name, net, "cifar100", papers, jittered).items()
    },
    note=(
        "The settings of Table 3. The paper increased the number of units of the bridges by an amount that it does not "
        "give; here they are those of Table 3."
    ),
    measure=associated.distances,
    draw=associated.curves("al_table4", "CIFAR-100"),
)
main = partial(study.main, STUDY)

if __name__ == "__main__":
    main()
