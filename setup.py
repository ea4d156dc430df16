"""Which packages there are: those of bnrepro/, and folders beside it that become packages inside it once installed."""

from setuptools import find_packages, setup

BESIDE = {"bnrepro.conf": "conf", "bnrepro.experiments": "experiments", "bnrepro.reference": "results/reference"}

setup(packages=[*find_packages(include=["bnrepro", "bnrepro.*"]), *BESIDE], package_dir=BESIDE)
