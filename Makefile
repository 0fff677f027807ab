# A thin front for meson and ninja. `make demo` and `make check` also install what is missing (tools/packages.txt).
MESON ?= meson
NINJA ?= ninja
BUILD ?= build
PREFIX ?= /usr/local
DESTDIR ?=
MODEL ?=

.PHONY: all packages scenes demo nano check check-all asan tsan ubsan fuzz arm64 wasm bench install format clean

all: $(BUILD)/build.ninja
	@$(NINJA) -C $(BUILD)

$(BUILD)/build.ninja:
	@$(MESON) setup $(BUILD) --prefix $(PREFIX)

# The packages that building needs.
packages:
	@tools/install_packages.sh build

# What draws pictures, too, for which a build may have been set up before its packages were there.
scenes:
	@tools/install_packages.sh check
	@$(MAKE) --no-print-directory all
	@[ -x $(BUILD)/tools/scenes/draw_scenes ] || $(MESON) configure $(BUILD) -Dscenes=enabled
	@$(MAKE) --no-print-directory all

# The built-in model answers about a picture: docs/demo.jpg, SEED=N a new drawing, IMAGE=photo.jpg PROMPT="..." yours.
demo: $(if $(SEED),scenes,packages)
	@$(MAKE) --no-print-directory all
	@tools/demo.sh $(BUILD)

# Train the built-in model from nothing: hours. What is done is kept in build/nano, and the next call goes on.
nano: scenes
	@tools/nano/train.sh $(BUILD)

check:
	@tools/check.sh check

# Adds full-size models, other people's programs on our exports, sanitizers, arm64 under qemu, WebAssembly and short
# fuzz runs.
check-all:
	@tools/check.sh check-all

asan tsan ubsan fuzz arm64 wasm:
	@tools/check.sh $@

# Kernels, the machine, then a whole answer; MODEL=... for a real model. bench/README.md: beside other runtimes.
bench: packages
	@$(MAKE) --no-print-directory all
	@MODEL=$(MODEL) tools/bench.sh $(BUILD)

install: all
	@DESTDIR=$(DESTDIR) $(MESON) install -C $(BUILD) --no-rebuild

format:
	@find bench cli include src tests tools -name '*.[ch]' | xargs clang-format -i

clean:
	@rm -rf build build-asan build-ubsan build-tsan build-fuzz build-arm64 build-arm64-root build-clients build-wasm
