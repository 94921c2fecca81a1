"""What every process of the distributed test does; it writes what it saw to FOLDER/RANK.json.

Run by torchrun: ``distributed_program.py FOLDER``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from training_fixtures import PatchBackbone, pictures

from featup_app.base.errors import Cancelled, UpsamplerError
from featup_app.training.cache import Preparation, prepare_pictures
from featup_app.training.distributed import join_processes
from featup_app.training.examples import TrainingSet
from featup_app.training.recipes import DEFAULT
from featup_app.training.train import train_upsampler
from featup_app.training.trainer import Trainer

QUICK = replace(DEFAULT, directions=0, views=2)


def digest(module: torch.nn.Module) -> str:
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in module.state_dict().values())).hexdigest()


def main(folder: Path) -> None:
    processes = join_processes()
    cache, shared = folder / "cache", folder / "shared"
    seen: dict[str, object] = {"rank": processes.rank, "count": processes.count}

    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    parameter.grad = torch.full((2, 3), float(processes.rank))
    processes.average_gradients([parameter])
    seen["gradient"] = parameter.grad.unique().tolist()

    def train(**options):
        chosen = {"steps": 4, "size": 32, "views": 3, "measure_every": 2, "cache": cache, **options}
        return train_upsampler(pictures(5), PatchBackbone(), QUICK, processes=processes, **chosen)

    backbone = PatchBackbone()
    result = train_upsampler(
        pictures(6),
        backbone,
        QUICK,
        steps=4,
        size=32,
        views=3,
        measure_every=2,
        cache=cache,
        checkpoint=shared / "one.training.pt",
        processes=processes,
    )
    seen["backbone_calls"] = backbone.calls
    seen["first"] = digest(result.stack)
    seen["losses"] = [point.loss for point in result.curve]
    seen["figures"] = result.figures
    seen["steps"] = result.steps
    seen["processes"] = result.facts["processes"]

    one, same = train(seed=3), train(seed=3)
    seen["repeated"] = [digest(one.stack), digest(same.stack)]

    def stop(words: str, done: int, total: int, stage=None) -> None:
        if processes.rank == 1 and words == "training" and done == 3:
            raise Cancelled

    stopped = train(seed=3, progress=stop, checkpoint=shared / "half.training.pt")
    seen["stopped"] = [stopped.steps, stopped.stopped]
    resumed = train(seed=3, resume=shared / "half.training.pt")
    seen["resumed"] = digest(resumed.stack)

    def refuse(words: str, done: int, total: int, stage=None) -> None:
        if processes.rank == 1:
            raise Cancelled

    try:
        train(cache=folder / "another cache", progress=refuse)
    except Cancelled:
        seen["cancelled_preparation"] = True

    (folder / "file").write_text("in the way")
    try:
        train(checkpoint=folder / "file" / "b.training.pt")
    except UpsamplerError as error:
        seen["full_disk"] = str(error)

    part = prepare_pictures(
        pictures(4), PatchBackbone(), preparation=Preparation(size=32, views=3), folder=cache, budget=10**8
    )
    trainer = Trainer([TrainingSet(part, part)], QUICK, processes=processes)
    draw, drawn = trainer.sampler.draw, []

    def broken(step, generator):
        example = draw(step, generator)
        drawn.append(hashlib.sha256(example.views.numpy().tobytes()).hexdigest())
        if step == 2 and processes.rank == 1:
            return replace(example, features=example.features * float("nan"))
        return example

    trainer.sampler.draw = broken
    seen["not_finite"] = trainer.run(steps=4, measure_every=1).stopped
    seen["drawn"] = drawn
    processes.leave()
    (folder / f"{processes.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
