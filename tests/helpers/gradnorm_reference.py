"""Algorithm 1 of the GradNorm paper, word for word: L_grad built with create_graph and differentiated by autograd.

Slow and plain on purpose; the oracle for `balancers.GradNorm`.
"""

import torch


def gradnorm_reference(network, tasks, alpha, steps, lr=0.025, network_lr=1e-3, floor=1e-3):
    """The weights path w(0), w(1), ... of shape (steps + 1, T); ``network`` is trained with w(t) by SGD."""
    T = len(tasks)
    w = torch.ones(T, requires_grad=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=network_lr)
    weight_optimizer = torch.optim.Adam([w], lr=lr)
    W = list(network.shared.parameters())
    initial, path = None, [w.detach().clone()]
    for _ in range(steps):
        losses = network.losses()
        L = torch.stack([losses[task] for task in tasks])
        initial = L.detach().clone() if initial is None else initial
        G = torch.stack([norm(torch.autograd.grad(w[i] * L[i], W, create_graph=True)) for i in range(T)])
        r = (L / initial) / (L / initial).mean()
        target = (G.mean() * r**alpha).detach()
        (w_gradient,) = torch.autograd.grad((G - target).abs().sum(), w, retain_graph=True)
        optimizer.zero_grad()
        (w.detach() * L).sum().backward()
        optimizer.step()
        w.grad = w_gradient
        weight_optimizer.step()
        with torch.no_grad():
            w.clamp_(min=floor)
            w.mul_(T / w.sum())
        path.append(w.detach().clone())
    return torch.stack(path)


def norm(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients]).norm()
