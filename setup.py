"""Installs the model zoo: `pip install -e .` for users, `pip install -e '.[test]'` for the tests."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = {}
exec((HERE / "zoo/version.py").read_text(encoding="utf8"), VERSION)

# Other people's weights; keras-nlp, for KerasHub's presets, is in the main installation.
CONVERT = ["safetensors>=0.5", "gguf>=0.16"]
# Tokenizers of SentencePiece, natively and in graph: one op of tensorflow-text, which TF Serving has linked in.
UNIGRAM = ["sentencepiece>=0.2", "tensorflow-text>=2.20,<3"]

setup(
    name="language-model-zoo",
    version=VERSION["__version__"],
    description="Language models from the n-gram to T5 as Keras layers: trained with tf.distribute, served by TF Serving.",
    long_description=(HERE / "README.md").read_text(encoding="utf8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["zoo*", "trainers*", "tfds_configs*", "benchmarks*"]),
    # What TFDS shows of a data set stands beside its builder.
    package_data={"tfds_configs": ["*/README.md", "*/CITATIONS.bib"], "trainers": ["playground.html"]},
    install_requires=[
        "tensorflow>=2.20,<3",
        "keras>=3.12,<4",
        "keras-nlp>=0.20",
        "tensorflow-datasets>=4.9.9",
        "importlib_resources>=5",  # TFDS 4.9.10 imports it to build a public set, and does not declare it
        "absl-py>=2.1",
        "numpy>=1.26",
        "babel>=2.14",
        "tokenizers>=0.20",
        "h5py>=3.10",
        "protobuf>=4",
        "rich>=13",
        "tensorboard>=2.19",
        "sacrebleu>=2.4",
        "rouge-score>=0.1.2",
    ],
    entry_points={
        "console_scripts": [
            "zoo-train=trainers.run:start",
            "zoo-evaluate=trainers.evaluate:start",
            "zoo-generate=trainers.generate:start",
            "zoo-export=trainers.export:start",
            "zoo-convert=trainers.convert:start",
            "zoo-prepare=trainers.prepare:start",
            "zoo-harness=trainers.harness:start",
            "zoo-doctor=trainers.doctor:start",
            "zoo-report=trainers.report:start",
            "zoo-phrases=trainers.phrases:start",
            "zoo-trace=trainers.trace:start",
            "zoo-forget=trainers.forget:start",
            "zoo-explain=trainers.explain:start",
            "zoo-playground=trainers.playground:start",
        ]
    },
    extras_require={
        "convert": CONVERT,
        "unigram": UNIGRAM,
        "test": [
            *CONVERT,
            *UNIGRAM,
            "pytest>=8",
            "pytest-xdist>=3.7",
            "hypothesis>=6.100",
            "tensorflow-serving-api>=2.19",
            "pyyaml>=6",
            "ruff>=0.17,<0.18",
            "seqeval>=1.2",
            "scikit-learn>=1.4",
            "matplotlib>=3.8",
            "dp-accounting>=0.4.4",  # as in `privacy`
            "starlette>=0.40",  # as in `playground`
            "uvicorn>=0.30",
            "gcp-storage-emulator>=2026.7",
            "trustme>=1.2",
        ],
        "bench": ["torch>=2.4", "transformers>=4.45", "kenlm>=0.2", "python-crfsuite>=0.9.9", "pytorch-crf>=0.7.2"],
        "report": ["matplotlib>=3.8"],
        "serving": ["tensorflow-serving-api>=2.19"],
        "playground": ["starlette>=0.40", "uvicorn>=0.30", "tensorflow-serving-api>=2.19"],
        "harness": ["lm_eval>=0.4.9"],
        "privacy": ["dp-accounting>=0.4.4"],
        "ctranslate2": ["ctranslate2>=4.5"],
        "beam": ["apache-beam>=2.70"],
        "onnx": ["tf2onnx>=1.17", "onnxruntime>=1.20"],
    },
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
