"""Production training with the weights a study has exported: python examples/production.py weights.json"""

import sys

from torch.optim import Adam

from balancers import Static  # needs torch alone
from examples.own_problem import Digits  # your network and your data

problem = Digits()
model = problem.build_model(seed=0)
optimizer = Adam(model.parameters())
balancer = Static.load(sys.argv[1], tasks=["digit", "ink"])
for batch in problem.loader("train", seed=0) * problem.epochs:
    optimizer.zero_grad()
    balancer.backward(problem.losses(model, batch))
    optimizer.step()
print(problem.evaluate(model, "test"))
