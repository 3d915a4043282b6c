"""What pyproject.toml cannot say: `configs/` is a part of the package, for `--config=NAME` without a checkout."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["nash_jax*"]), "nash_jax.configs"],
    package_dir={"nash_jax.configs": "configs"},
)
