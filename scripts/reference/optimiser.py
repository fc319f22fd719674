"""What torch's AdamW, gradient clipping and transformers' schedules do.

    python optimiser.py OUT.json      (torch 2.15, transformers 5.23)

AdamW: 20 steps of five parameters whose gradients have sizes from 1e-10 to 1, with and without weight decay, the learning
rate changing from step to step. Clipping: norms and clipped values. Schedules: factors of every step of a short run.
"""
import json
import sys
from pathlib import Path

import torch
from transformers import get_scheduler

SIZES = [1e-10, 1e-7, 1e-4, 1e-2, 1.0]
STEPS = 20


def adamw(weight_decay: float) -> dict:
    generator = torch.Generator().manual_seed(3)
    weights = [torch.nn.Parameter(torch.randn(6, generator=generator)) for _ in SIZES]
    initial = [weight.detach().tolist() for weight in weights]
    optimiser = torch.optim.AdamW(weights, lr=1e-2, weight_decay=weight_decay)
    gradients, rates = [], []
    for step in range(STEPS):
        rate = 1e-2 * (1 - step / 40)
        for group in optimiser.param_groups:
            group["lr"] = rate
        for weight, size in zip(weights, SIZES):
            weight.grad = size * torch.randn(6, generator=generator)
        gradients.append([weight.grad.tolist() for weight in weights])
        rates.append(rate)
        optimiser.step()
    state = [optimiser.state[weight] for weight in weights]
    return {
        "weightDecay": weight_decay,
        "initial": initial,
        "gradients": gradients,
        "learningRates": rates,
        "final": [weight.detach().tolist() for weight in weights],
        "first": [entry["exp_avg"].tolist() for entry in state],
        "second": [entry["exp_avg_sq"].tolist() for entry in state],
    }


def clipping() -> list[dict]:
    cases = []
    for values, limit in [([[3.0, 4.0], [12.0]], 1.0), ([[0.3, -0.4], [0.0]], 1.0), ([[1e-4], [2e-4]], 1e-5)]:
        weights = [torch.nn.Parameter(torch.zeros(len(value))) for value in values]
        for weight, value in zip(weights, values):
            weight.grad = torch.tensor(value)
        norm = torch.nn.utils.clip_grad_norm_(weights, limit)
        clipped = [weight.grad.tolist() for weight in weights]
        cases.append({"gradients": values, "maxNorm": limit, "norm": norm.item(), "clipped": clipped})
    return cases


def schedules() -> list[dict]:
    names = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup", "inverse_sqrt": "inverse_sqrt"}
    cases = []
    for name, theirs in names.items():
        for warmup in (0, 3):
            optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            scheduler = get_scheduler(theirs, optimiser, num_warmup_steps=warmup, num_training_steps=10)
            factors = []
            for _ in range(11):
                factors.append(scheduler.get_last_lr()[0])
                optimiser.step()
                scheduler.step()
            cases.append({"name": name, "warmupSteps": warmup, "totalSteps": 10, "factors": factors})
    return cases


def main() -> None:
    result = {"adamw": [adamw(0.0), adamw(0.1)], "clipping": clipping(), "schedules": schedules()}
    Path(sys.argv[1]).write_text(json.dumps(result, separators=(",", ":")) + "\n")


main()
