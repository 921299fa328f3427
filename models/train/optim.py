"""Muon (momentum, orthogonalised by a quintic Newton-Schulz iteration) for matrices, AdamW for the rest."""
import torch


def orthogonalise(g, steps=5):
    """The nearest orthogonal matrix to g, roughly: singular values end between 0.7 and 1.2. g [batch, rows, cols]."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr=0.02, momentum=0.95, decay=0.0):
        super().__init__(list(params), dict(lr=lr, momentum=momentum, decay=decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            same = {}
            for p in group["params"]:
                buf = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buf.lerp_(p.grad, 1 - group["momentum"])
                same.setdefault(p.shape, []).append((p, p.grad.lerp(buf, group["momentum"])))
            for shape, pairs in same.items():
                update = orthogonalise(torch.stack([g for _, g in pairs]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for (p, _), u in zip(pairs, update):
                    p.mul_(1 - group["lr"] * group["decay"]).add_(u, alpha=-scale)


def build(model, muon_lr, adam_lr, decay=0.05):
    matrices = [p for layer in model.blocks for p in layer.parameters() if p.dim() == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [Muon(matrices, lr=muon_lr, decay=decay),
            torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.97), weight_decay=0.0)]
