"""`provenance lineage MODEL --format mergekit`, typed."""

from __future__ import annotations

import yaml

from tests.support.command_line import CHILD, Run


def test_a_model_that_is_no_merge_has_no_recipe(run: Run) -> None:
    result = run("lineage", CHILD, "--format", "mergekit")
    assert result.status == 1
    assert "no merge of stored checkpoints" in result.err
    assert result.out == ""


def test_a_model_cut_from_another_is_a_stack_of_its_layers(run: Run) -> None:
    result = run("lineage", "halfstair/short-basalt-4l", "--format", "mergekit")
    assert result.status == 0
    config = yaml.safe_load(result.out)
    assert config["merge_method"] == "passthrough"
    ranges = [one["sources"][0]["layer_range"] for one in config["slices"]]
    assert sum(stop - start for start, stop in ranges) == 4


def test_a_recipe_is_of_one_model(run: Run) -> None:
    result = run("lineage", "--format", "mergekit")
    assert result.status == 2
    assert "name the MODEL" in result.err
