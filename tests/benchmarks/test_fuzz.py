"""A hundred random models: the numbers of plain PyTorch or one sentence."""

import json

from layerparallel.cli import main


def test_no_random_model_goes_wrong(capsys):
    assert main(["bench", "fuzz", "--models", "100", "--first", "10000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["faults"] == []
    assert found["counts"]["same"] > 40
    assert found["counts"]["refused"] > 20
