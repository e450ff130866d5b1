#!/usr/bin/env bash
# In-context finetuning, with few-shot prompting of the base model beside it, on the embedded model and data; see run.sh
exec bash "$(dirname "$0")/run.sh" icf "$@"
