"""Kubeflow Pipelines 2: `python examples/kubeflow_pipeline.py` writes workbook_pipeline.yaml.

IMAGE is built from examples/Dockerfile. The volume keeps runs, models and the registry.
"""

import sys

from kfp import compiler, dsl

IMAGE = "workbook:latest"


@dsl.container_component
def train(run: str, profile: str, data: str):
    """Run all notebooks."""
    words = ["run", "--quiet", "--run", run, "--profile", profile, "--data", data]
    return dsl.ContainerSpec(image=IMAGE, command=["workbook"], args=words)


@dsl.container_component
def register(run: str):
    """Register the classifier of a run."""
    return dsl.ContainerSpec(image=IMAGE, command=["workbook"], args=["register", run])


@dsl.pipeline(name="workbook", description="A labelled table to a registered classifier")
def workbook_pipeline(run: str, data: str, profile: str = "base"):
    """Train, then register."""
    trained = train(run=run, profile=profile, data=data)
    trained.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)
    register(run=run).after(trained)


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else "workbook_pipeline.yaml"
    compiler.Compiler().compile(workbook_pipeline, target)
