"""The GDPO paper on movie reviews, whose belief is the class token alone: `bash experiments/reviews.sh`.

Contract: as experiments/opinions.py, with the keys of experiments/reviews.yaml.
"""

from experiments.opinions import HERE, main
from utils import run_entry

if __name__ == "__main__":
    run_entry(lambda: main(HERE / "reviews.yaml"))
