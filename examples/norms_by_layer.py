"""Watch each layer's gradient, and clip each layer by itself.

python examples/norms_by_layer.py [RUN_FOLDER] [PATH=VALUE ...]
"""

import sys

import mai
from mai.engine.open_gradients import OpenGradients
from recipes.debug.tiny import tiny

LARGEST_NORM = 0.15


def layer_of(name: str) -> str:
    """decoder.layers.0.mlp.linear_fc1.weight -> layers.0; what is in no layer keeps its own name."""
    parts = name.split(".")
    return ".".join(parts[1:3]) if parts[0] == "decoder" and parts[1] == "layers" else name


def main(folder: str = "runs/norms_by_layer", *overrides: str) -> int:
    recipe = mai.override(tiny(), overrides)

    def clip_layers(gradients: OpenGradients) -> None:
        """Every rank calls it, after the backward pass and before the update."""
        norms = gradients.norms(layer_of)
        run.log({f"norm/{layer}": norm for layer, norm in norms.items()})
        gradients.scale(lambda name: LARGEST_NORM / max(LARGEST_NORM, norms[layer_of(name)]))

    with mai.open_run(recipe, folder) as run:
        for result in run.steps(before_update=clip_layers):
            run.log({"loss_in_bits": result.loss / 0.6931})
    return int(run.exit_code)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
