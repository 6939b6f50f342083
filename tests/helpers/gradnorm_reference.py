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


def gradnorm_reference_of_some(network, tasks, alpha, present, lr=0.025, network_lr=1e-3, floor=1e-3):
    """The same where ``present[t]`` names the tasks of step t: Algorithm 1 of these tasks alone.

    Each weight has an Adam of its own, which knows only the steps that its task was in; a step of one task balances
    nothing. L_i(0) is that of the task's first step.
    """
    w = [torch.ones((), requires_grad=True) for _ in tasks]
    adams = [torch.optim.Adam([one], lr=lr) for one in w]
    optimizer = torch.optim.SGD(network.parameters(), lr=network_lr)
    W, initial, path = list(network.shared.parameters()), {}, [torch.ones(len(tasks))]
    for names in present:
        losses, places = network.losses(), [tasks.index(name) for name in names]
        for name in names:
            initial.setdefault(name, losses[name].detach())
        L = [losses[name] for name in names]
        optimizer.zero_grad()
        if len(names) > 1:
            G = torch.stack(
                [
                    norm(torch.autograd.grad(w[i] * loss, W, create_graph=True))
                    for i, loss in zip(places, L, strict=True)
                ]
            )
            progress = torch.stack([loss.detach() / initial[name] for loss, name in zip(L, names, strict=True)])
            target = (G.mean() * (progress / progress.mean()) ** alpha).detach()
            gradients = torch.autograd.grad((G - target).abs().sum(), [w[i] for i in places], retain_graph=True)
        sum(w[i].detach() * loss for i, loss in zip(places, L, strict=True)).backward()
        optimizer.step()
        if len(names) > 1:
            before = sum(w[i].item() for i in places)
            for i, gradient in zip(places, gradients, strict=True):
                w[i].grad = gradient
                adams[i].step()
            with torch.no_grad():
                for i in places:
                    w[i].clamp_(min=floor)
                total = sum(w[i].item() for i in places)
                for i in places:
                    w[i].mul_(before / total)
        path.append(torch.stack([one.detach().clone() for one in w]))
    return torch.stack(path)
