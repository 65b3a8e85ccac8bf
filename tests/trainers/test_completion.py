"""The scripts of --completion, asked in the shells themselves what stands behind a line."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import programs
from trainers import completion

ROOT = Path(__file__).parents[2]

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
    "python3 -m trainers.run --model=bi": (["bilstm"], ["gpt"]),
    "python -m trainers.evaluate --mod": (["--model_dir="], ["--model="]),
    "python3 -m trainers.generate --top": (["--top_k=", "--top_p="], ["--task="]),
    "zoo-generate --model_dir=runs/gpt/latest --num": (["--num_beams="], ["--num_workers="]),
    "zoo-export --export_format=": (["saved_model", "onnx"], ["gpt"]),
    "zoo-prepare --tokenizer=w": (["word", "wordpiece"], ["byte"]),
    "python3 -m trainers.explain --prompt=x --model=gpt --preset=": ([], ["tiny"]),
    "python -m json.tool --mod": ([], ["--model="]),
    "python trainers/run.py --mod": ([], ["--model="]),
}
ASKING = 'source "$0"; COMP_LINE="$1" COMP_POINT=${#1}; _zoo_complete; printf "%s\\n" "${COMPREPLY[@]}"'


def test_every_program_is_known_with_its_console_script(capfd):
    scripts = re.findall(r'"(zoo-\w+)=trainers\.(\w+):start"', (ROOT / "setup.py").read_text(encoding="utf8"))
    assert {program for _, program in scripts} == completion.PROGRAMS.keys()
    assert {name: define.__name__ for name, define in completion.PROGRAMS.items()} == programs.DEFINITIONS
    last = programs.call(capfd, "run", "--completion=bash").out.splitlines()[-1]
    assert last.split()[-2 - len(scripts) :] == ["python", "python3", *(name for name, _ in scripts)]


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
