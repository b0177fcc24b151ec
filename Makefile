# Two commands work on a fresh Debian or Ubuntu machine: `make demo` and `make test`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= demo-output
# Demonstration and tests start the service dozens of times: with compiled modules that takes seconds less each time.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help setup setup-test demo test lint bench bench-dicom bench-model bench-print bench-slice bench-sterile bench-verify fuzz-dicom run lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## packages, virtual environment, slicer definitions (what demo and test do first)
	@deploy/setup.sh run

setup-test:
	@deploy/setup.sh test

demo: setup ## the whole journey on simulators; CT=dir LEVEL=T11 TARGET=x,y,z [ABOVE= BELOW= MASK=] for a real study
	@$(BIN)/python -m simulators.demo --out "$(DEMO_OUT)" \
	  $(if $(CT),--ct "$(CT)") $(if $(LEVEL),--level "$(LEVEL)") $(if $(TARGET),--target="$(TARGET)") \
	  $(if $(ABOVE),--above="$(ABOVE)") $(if $(BELOW),--below="$(BELOW)") $(if $(MASK),--mask "$(MASK)") $(DEMO_ARGS)

# A worker for each of two cores: a journey's service, its model build and its slicer are busy enough. Order: tests/conftest.py.
test: lint ## lint and all tests, on two cores
	@$(BIN)/pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder tests/e2e tests/contract tests/unit $(PYTEST_ARGS)

lint: setup-test ## ruff, mypy strict, import directions
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: setup-test ## slow acceptance runs with figures
	@$(BIN)/pytest -m slow $(PYTEST_ARGS)

bench-dicom: setup-test ## the DICOM node beside Orthanc, storescp and the raw disk; kills; slow clients (BENCH_ARGS=)
	@$(BIN)/python -m bench.dicom all $(BENCH_ARGS)

bench-model: setup-test ## isolation, phantoms, solid and time of the model, with figures (BENCH_ARGS=--write)
	@$(BIN)/python -m bench.model all $(BENCH_ARGS)

bench-verify: setup-test ## the O-arm verification on simulated scans: accuracy, refusals, speed (BENCH_ARGS="--jobs 2")
	@$(BIN)/python -m bench.verify all $(BENCH_ARGS)

bench-sterile: setup-test ## 20,000 random histories of the sterilisation rules (SPINEPRINT_HISTORIES=)
	@$(BIN)/pytest -m slow tests/unit/test_sterilisation_properties.py $(PYTEST_ARGS)

bench-print: setup-test ## 200 seeded faults, instants and kill -9 against simulated printers (BENCH_ARGS=)
	@$(BIN)/python -m bench.printing $(BENCH_ARGS)

bench-slice: setup-test ## the audit's speed; STL to audited G-code beside the engine's own time (BENCH_ARGS=--write PAGE)
	@$(BIN)/python -m bench.slice $(BENCH_ARGS)

fuzz-dicom: setup-test ## 200,000 damaged inputs to the PDU reader, as many to the data set reader (FUZZ_ARGS=)
	@$(BIN)/python -m bench.fuzz pdu $(FUZZ_ARGS) && $(BIN)/python -m bench.fuzz dataset $(FUZZ_ARGS)

run: setup ## the service alone (CONFIG=file.toml)
	@$(BIN)/spineprint serve $(if $(CONFIG),--config "$(CONFIG)")

lock: ## resolve requirements again, with hashes (needs uv)
	cd requirements && for f in runtime discovery segmentation dev physics; do uv pip compile --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url -q --custom-compile-command "make lock" $$f.in -o $$f.txt; done

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache
