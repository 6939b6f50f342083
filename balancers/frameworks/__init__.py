"""Callbacks for frameworks that own the training loop; each file needs its framework, and is imported on demand.

They are part of `balancers`, since production that trains in a framework needs them without a study, and a package of
their own, so that one contract says where frameworks may be imported: ``import balancers`` needs torch alone.
"""
