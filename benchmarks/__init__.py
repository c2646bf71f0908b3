"""What a session costs: this package beside its rivals and the bare calls.

``benchmarks/README.rst`` says how to run it and what each figure means.
"""
