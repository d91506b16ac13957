# make image PROMPT="..."   sets up .venv and makes a picture with the embedded model
# make test | check | bench | load | docs | train-demo
VENV ?= .venv
PY ?= python3
PROMPT ?= emoji of a smiling cat
ARGS ?=
BIN := $(VENV)/bin
UV_FIND_LINKS ?= $(or $(PIP_FIND_LINKS),$(shell $(PY) -m pip config get global.find-links 2>/dev/null))
export UV_FIND_LINKS
UVFLAGS := -c constraints.txt $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND))
UVPIP = VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install -q $(UVFLAGS)

image: $(BIN)/.core
	$(BIN)/inkwash generate "$(PROMPT)" $(ARGS)

$(BIN)/uv: constraints.txt
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt uv
	touch $@

$(BIN)/.core: pyproject.toml constraints.txt $(BIN)/uv
	$(UVPIP) -e .
	@$(BIN)/python -c "import shutil,torch;v=torch.version.cuda;v and not shutil.which('nvidia-smi') and print('note: this torch carries CUDA but no NVIDIA driver was found; a smaller CPU build: make clean install TORCH_BACKEND=cpu')"
	touch $@

$(BIN)/.dev: $(BIN)/.core
	$(UVPIP) --group dev -e '.[all]'
	touch $@

install: $(BIN)/.dev

test: $(BIN)/.dev
	$(BIN)/python -m pytest $(ARGS)

check: $(BIN)/.dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy

bench: $(BIN)/.dev
	-@$(UVPIP) --no-deps denoising-diffusion-pytorch==2.3.4 einops==0.8.2
	$(BIN)/python benchmarks/speed.py $(ARGS)

load: $(BIN)/.dev
	$(BIN)/python benchmarks/load.py --short $(ARGS)

DEMO := shape=sphere+cube+cone+star+heart,color=red+orange+yellow+green+blue+purple+pink+black,material=matte,light=soft,background=white+gray

train-demo: $(BIN)/.dev
	$(BIN)/inkwash train scenes-demo --data scenes:10000:0:32,objects=1,size=large,$(DEMO) \
	  --data scenes:12000:0:32,objects=2,size=medium+large,$(DEMO) --out demo $(ARGS)
	@echo "the sheets of each stage: demo/samples"

docs: $(BIN)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock: constraints.in $(BIN)/uv
	$(BIN)/uv pip compile -q --python-version 3.11 --all-extras --group dev pyproject.toml -c constraints.in \
	  --no-annotate --no-header --no-emit-find-links --no-emit-package torch -o .lock.tmp
	{ cat constraints.in .lock.tmp; } > constraints.txt; rm .lock.tmp

clean:
	rm -rf $(VENV)

.DEFAULT_GOAL := image
.PHONY: image install test check bench load train-demo docs lock clean
