"""TRL's odds-ratio term and its gradient over a grid of log-probabilities, in float64.

    python odds_ratio.py OUT.json      (trl 1.16.0, torch 2.15)
"""
import json
import sys
from pathlib import Path

import torch
from trl.experimental.orpo.orpo_trainer import log1mexp

VALUES = [-12.0, -5.0, -2.0, -0.8, -0.69314, -0.5, -0.05, -1e-3, -1e-6]


def main() -> None:
    cases = []
    for chosen in VALUES:
        for rejected in VALUES:
            w = torch.tensor(chosen, dtype=torch.float64, requires_grad=True)
            l = torch.tensor(rejected, dtype=torch.float64, requires_grad=True)
            log_odds = (w - l) - (log1mexp(w) - log1mexp(l))
            ratio = torch.nn.functional.logsigmoid(log_odds)
            (-ratio).backward()
            cases.append([chosen, rejected, log_odds.item(), ratio.item(), w.grad.item(), l.grad.item()])
    columns = ["logpChosen", "logpRejected", "logOdds", "ratio", "dChosen", "dRejected"]
    lines = ",\n".join(json.dumps(case) for case in cases)
    Path(sys.argv[1]).write_text(f'{{"columns": {json.dumps(columns)},\n "cases": [\n{lines}\n]}}\n')


main()
