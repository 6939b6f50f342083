"""Production training with what `gradsweep export` wrote to weights.json: python -m examples.production"""

from balancers import Static  # needs torch alone
from examples.own_problem import Digits  # your network and your data

problem = Digits()
model = problem.build_model(seed=0)
optimizer = problem.build_optimizer(model)
balancer = Static.load("weights.json", tasks=["digit", "ink"])
for batch in problem.loader("train", seed=0) * problem.epochs:
    optimizer.zero_grad()
    balancer.backward(problem.losses(model, batch))
    optimizer.step()
print(problem.evaluate(model, "test"))
