"""The task as a script for torchrun's elastic agent: a restart goes on from what it saved last."""

import os
from pathlib import Path

import torch
from torch import distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from benchmarks.scripts import task
from benchmarks.steps import StepLog

STEPS_PER_SNAPSHOT = 25


def main() -> None:
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    snapshot = Path(os.environ["BENCHMARK_SNAPSHOT"])
    torch.manual_seed(0)
    dataset, inner = task.make_dataset(), task.make_model()
    model = DistributedDataParallel(inner)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    epoch = step = 0
    if snapshot.exists():
        saved = torch.load(snapshot, weights_only=True)
        inner.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        epoch, step = saved["epoch"], saved["step"]
    log = StepLog()
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(dataset)
    while True:
        sampler.set_epoch(epoch)
        for x, y, samples in DataLoader(dataset, batch_size=task.BATCH // world_size, sampler=sampler):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            log.write(
                "step", rank=rank, world_size=world_size, step=step, epoch=epoch, samples=samples.tolist()
            )
            if rank == 0 and step % STEPS_PER_SNAPSHOT == 0:
                state = {"model": inner.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**state, "epoch": epoch, "step": step}, snapshot.with_suffix(".new"))
                snapshot.with_suffix(".new").rename(snapshot)
        epoch += 1


if __name__ == "__main__":
    main()
