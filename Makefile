# make demo          the whole story on a laptop: train, graft, finetune, compare; writes runs/demo/report.html
# make test          the tests, with the versions that were tested (constraints.txt)
# make test-browser  the pages in Chromium, which comes from the system's packages
# make test-doors    every command of the pages typed with tiny settings, the notebook, the pictures, kernels; and the
#                    tests that take long: whole commands, measurements, several processes
# make pictures      the pictures of README, in docs/figures
# make soak          the long tier of all instruments: takes hours, fills the table of docs/reliability.md
# make check         ruff and mypy
# make docs          the pages and READMEs as a site in build/site
# make house         the measures of the house: lines, long functions, files that a sample passes through ...
# make test-oldest   the tests with the oldest versions that are supported (constraints-oldest.txt)
# make clean         remove what building and testing left behind; environments and runs stay
#
# Nothing has to be installed before but Python 3.11 or newer. ARGS="..." goes to the recipe or to pytest;
# PYTHON=python3.12 chooses another interpreter for a new environment.

PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$candidate && break; done)
THREADS := OMP_NUM_THREADS=2 TOKENIZERS_PARALLELISM=false
# Two processes of one thread each are faster than one of two: most tests are too small to share out.
TESTS := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test test-browser test-doors pictures soak check docs house test-oldest clean

demo: .venv/.installed
	.venv/bin/sllm demo $(ARGS)

test: .venv/.installed
	$(TESTS) .venv/bin/python -m pytest -q -n 2 -m "not long" $(ARGS)

test-browser: .venv/.installed .chromium
	BROWSER=1 $(TESTS) .venv/bin/python -m pytest -q -m browser $(ARGS)

test-doors: .venv/.installed
	$(TESTS) .venv/bin/python -m pytest -q tests/doors $(ARGS)
	$(TESTS) .venv/bin/python -m pytest -q -n 2 -m long $(ARGS)

pictures: .venv/.installed .chromium
	PICTURES=$(CURDIR)/docs/figures $(TESTS) .venv/bin/python -m pytest -q tests/doors/test_pictures.py

.PHONY: .chromium
.chromium:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		apt-get update -q && apt-get install -y -q chromium; } || \
		{ echo "error: Chromium is missing, for the tests of pages: apt-get install chromium" >&2; exit 1; }

soak: .venv/.installed
	SOAK=1 SOAK_TABLE=results/soak $(TESTS) .venv/bin/python -m pytest -q -n 2 $(ARGS)
	.venv/bin/sllm report --fill docs/reliability.md

check: .venv/.installed .mypy/sllm_recipes
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# In the same folders as here, so that links between the pages hold.
PAGES := README.md SECURITY.md CONTRIBUTING.md CHANGELOG.md docs data/README.md lmbase/examples/README.md results \
	tests/faults.md tests/data/cuts/README.md
docs: .venv/.installed
	rm -rf build/docs && mkdir -p build/docs
	tar -cf - --exclude '*.json' --exclude '__pycache__' $(PAGES) | tar -xf - -C build/docs
	.venv/bin/zensical build --strict

house: .venv/.installed
	$(THREADS) .venv/bin/python tests/house.py

# The folder recipes/ under the name that its modules are imported by (see pyproject.toml).
.mypy/sllm_recipes:
	mkdir -p .mypy
	ln -s ../recipes $@

test-oldest: .venv-oldest/.installed
	$(TESTS) .venv-oldest/bin/python -m pytest -q -n 2 $(ARGS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

.venv/.installed: constraints.txt
.venv-oldest/.installed: constraints-oldest.txt

# The stamp is newer than what decides about the environment, so that a second `make` starts at once.
%/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; install it, or name one: make PYTHON=..." >&2; exit 1; }
	test -x $*/bin/pip || $(PYTHON) -m venv $*
	$*/bin/python -m pip install --constraint $(filter constraints%,$^) --editable '.[dev]'
	touch $@
