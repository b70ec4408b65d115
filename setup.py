"""What is installed: `mai` (the library), `recipes` (the runs) and `launch` (the way to start them).

The ranges are for people who bring their own torch; `constraints.txt` pins the set that the tests run on.
"""

from setuptools import find_packages, setup

setup(
    name="mai",
    version="0.1.0",
    description="A training framework for frontier language models, on Megatron-Core",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["mai", "mai.*", "recipes", "recipes.*", "launch", "launch.*"]),
    # Compiled where there is a GPU, after the installation: python -m mai.kernels.cuda.build_library
    package_data={
        "mai.hardware": ["gpus/*.toml", "clusters/*.toml"],
        "mai.kernels.cuda": ["*.cu"],
        "mai.plan": ["software/*.toml", "failures/*.toml"],
        "mai.plan.report": ["plan-1.json"],
        "mai.plan.telling": ["plan_page.html"],
        "mai.plan.time": ["trust.json"],
    },
    entry_points={"console_scripts": ["mai = mai.cli:main"]},
    install_requires=[
        "click>=8.1",
        # Hybrid sharding: megatron/core/parallel_state.py makes its groups with it, and does not ask for it.
        "einops>=0.8",
        # One minor version: mai/engine adapts Megatron-Core's insides, so an upgrade is a change there, proven by the
        # parity tests, and not something that an installer decides.
        "megatron-core>=0.16.1,<0.17",
        "numpy>=1.26",
        "pydantic>=2.11",
        "rich>=13",
        "safetensors>=0.5",
        "tokenizers>=0.21",
        # The standard library reads TOML from 3.11 on.
        "tomli>=2; python_version < '3.11'",
        "torch>=2.11",
        "wandb>=0.20",
    ],
    extras_require={
        # The compiler of torch's CUDA, for mai/kernels/cuda: no CUDA needs to be installed.
        "gpu": [
            "nvidia-cuda-cccl>=13.0,<13.1",
            "nvidia-cuda-crt>=13.0,<13.1",
            "nvidia-cuda-nvcc>=13.0,<13.1",
            "nvidia-ml-py>=12.570",
            "nvidia-nvvm>=13.0,<13.1",
        ],
        # transformers, gguf and accelerate: the weights and logits that the tests of families compare with; jsonschema:
        # what `mai plan --json` prints, against its published schema.
        "dev": [
            "accelerate>=1.10",
            "gguf>=0.17",
            "jsonschema>=4.23",
            "mypy>=1.15",
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.11",
            "transformers>=5",
        ],
    },
)
