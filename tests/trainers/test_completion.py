"""The scripts of --completion, asked in the shells themselves what stands behind a line."""

import shutil
import subprocess

import pytest

from tests import programs

ASKED = {  # a line up to the cursor -> (words that are offered, words that are not)
    "zoo-train --mod": (["--model=", "--model_dir="], ["--task="]),
    "python -m trainers.run --model=bi": (["bilstm"], ["gpt"]),
    "python -m trainers.run --model=gpt --preset=gpt2_s": (["gpt2_small"], ["gpt2_xl"]),
    "zoo-train --model=bert --task=": (["masked_lm", "tagging"], ["translation"]),
    "zoo-train --task=tag": (["tagging"], ["translation"]),
    "zoo-train --model=gpt --set=num_": (["num_layers=", "num_heads="], ["dropout="]),
    "zoo-train --model=bilstm --task=tagging --set=cr": (["crf="], []),
    "zoo-train --optimizer=a": (["adamw", "adagrad"], ["sgd"]),
    "zoo-train --list=gl": (["glm", "glove"], ["gpt"]),
    "python -m trainers.evaluate --mod": ([], ["--model="]),
}
ASKING = 'source "$0"; COMP_LINE="$1" COMP_POINT=${#1}; _zoo_complete; printf "%s\\n" "${COMPREPLY[@]}"'


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_names_and_fields(shell, capfd, tmp_path):
    answer = programs.call(capfd, "run", f"--completion={shell}")
    assert answer.status == 0, answer.err
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell}")
    (tmp_path / "script").write_text(answer.out)
    for line, (offered, others) in ASKED.items():
        command = [shell, "-c", ASKING, str(tmp_path / "script"), line]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0 and not result.stderr, (line, result.stderr)
        typed = line.rpartition(" ")[2]
        if shell == "zsh":  # which leaves words out itself that do not begin as what is typed, the flag in front included
            words = {word.removeprefix(f"{typed.partition('=')[0]}=" * ("=" in typed)) for word in result.stdout.split()
                     if word.startswith(typed)}  # fmt: skip
        else:
            words = set(result.stdout.split())
        assert set(offered) <= words and not set(others) & words, (line, words)
