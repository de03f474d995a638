# levee: one makefile for everything. `make help` lists the targets.
#
# Output goes to build/$(MODE)/, laid out like the source tree. Targets that a user meets first
# (demo, test, lint) install what is missing and then call make again, because what pkg-config says
# is read once, when this file is parsed.

MODE      ?= release
PREFIX    ?= /usr/local
WITH_KAFKA ?= 1
WITH_ZLIB ?= 1
WITH_JSON ?= 1
V         ?= 0
WERROR    ?= $(if $(filter true 1,$(CI)),1,0)
ifeq ($(origin CC),default)
CC := gcc
endif
OBJCOPY   ?= objcopy
PKG_CONFIG ?= pkg-config

MODES := debug release asan ubsan tsan cov
ifeq ($(filter $(MODE),$(MODES)),)
$(error MODE=$(MODE) is none of: $(MODES))
endif

Q       := $(if $(filter 1,$(V)),,@)
# Put before a command on the same line: a short note instead of the command itself.
say      = $(if $(filter 1,$(V)),,@printf '%-8s %s\n' '$(1)' '$(2)';)
B       := build/$(MODE)
SUBMAKE := $(MAKE) --no-print-directory
NPROC   := $(shell nproc 2>/dev/null || echo 2)
# The public targets call make again; that inner make is the parallel one, unless -j was given.
PARALLEL = $(SUBMAKE) $(if $(findstring j,$(firstword -$(MAKEFLAGS))),,-j$(NPROC))

# ---- sources: every file of a folder belongs to it ----
# What needs librdkafka has one of these words in its name.
needs_kafka   = $(strip $(foreach word,kafka broker demo,$(findstring $(word),$(1))))
without_kafka = $(foreach f,$(1),$(if $(call needs_kafka,$(f)),,$(f)))
sources       = $(sort $(if $(filter 0,$(WITH_KAFKA)),$(call without_kafka,$(wildcard $(1))),$(wildcard $(1))))
objects       = $(patsubst %.c,$(B)/%.o,$(1))

LIB_SRC     := $(call sources,$(addsuffix /*.c,base io wal checkpoint recovery runtime runtime/operators connectors))
SUPPORT_SRC := $(call sources,tests/support/*.c)
PRELOAD_SRC := $(call sources,tests/support/interpose/*.c)
# In tests/* and bench/ a file with a main() is a program; the other files of its folder are parts
# of each program there.
PROGRAM_DIRS := $(addprefix tests/,unit integration fault fault-kafka sim) bench
PROGRAM_ALL  := $(call sources,$(addsuffix /*.c,$(PROGRAM_DIRS)))
PROGRAM_SRC  := $(if $(PROGRAM_ALL),$(shell grep -l '^int main\b' $(PROGRAM_ALL)))
TEST_SRC     := $(filter tests/%,$(PROGRAM_SRC))
BENCH_SRC    := $(filter bench/%,$(PROGRAM_SRC))
# tests/fault-kafka has the parts of tests/fault and tests/integration, too.
parts         = $(filter $(1)% $(if $(filter tests/fault-kafka/,$(1)),tests/fault/% tests/integration/%),$(filter-out $(PROGRAM_SRC),$(PROGRAM_ALL)))
EXAMPLE_SRC := $(call sources,examples/*.c)
TOOL_SRC    := $(call sources,tools/*.c)
SIDE_SRC    := $(call sources,tests/programs/*.c)

LIB_OBJ   := $(call objects,$(LIB_SRC))
PRELOADS  := $(PRELOAD_SRC:%.c=$(B)/%.so)
TESTS     := $(TEST_SRC:%.c=$(B)/%)
BENCHES   := $(BENCH_SRC:%.c=$(B)/%)
EXAMPLES  := $(EXAMPLE_SRC:%.c=$(B)/%)
TOOL      := $(if $(TOOL_SRC),$(B)/levee)
# What test scripts run beside levee, such as a broker.
SIDE_PROGRAMS := $(SIDE_SRC:%.c=$(B)/%)

# The version lives in the header, the only place that users see.
version = $(shell sed -n 's/^\#define LEVEE_VERSION_$(1)  *//p' include/levee/levee.h)
VERSION := $(call version,MAJOR).$(call version,MINOR).$(call version,PATCH)
SONAME  := liblevee.so.$(call version,MAJOR)
STATIC  := $(B)/liblevee.a
SHARED  := $(if $(filter debug release,$(MODE)),$(B)/$(SONAME))

# ---- dependencies ----
# Reads JSON; without cJSON it is not built.
HAVE_CJSON  := $(shell $(PKG_CONFIG) --exists libcjson 2>/dev/null && echo yes)
CASE_SRC    := $(if $(HAVE_CJSON),$(call sources,tests/cases/runner/*.c))
CASE_RUNNER := $(if $(CASE_SRC),$(B)/tests/case_runner)
MODULES := lmdb libxxhash libuv $(if $(filter 0,$(WITH_KAFKA)),,rdkafka) $(if $(filter 0,$(WITH_ZLIB)),,zlib) \
	$(if $(filter 0,$(WITH_JSON)),,libcjson)
MISSING := $(shell $(PKG_CONFIG) --exists $(MODULES) check 2>/dev/null || echo yes)
DEP_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(MODULES) 2>/dev/null)
# xxHash is compiled in (base/hash.c), so nothing links to it.
DEP_LIBS   := $(shell $(PKG_CONFIG) --libs $(filter-out libxxhash,$(MODULES)) 2>/dev/null) -pthread
CHECK_CFLAGS := $(shell $(PKG_CONFIG) --cflags check 2>/dev/null)
CHECK_LIBS   := $(shell $(PKG_CONFIG) --libs check 2>/dev/null)

# ---- flags ----
WARN := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wold-style-definition -Wpointer-arith -Wcast-qual -Wcast-align -Wwrite-strings -Wformat=2 \
	-Wundef -Wvla -Wswitch-enum -Wimplicit-fallthrough -Wnull-dereference -Wdouble-promotion \
	-Wfloat-equal -Wredundant-decls -Wdate-time
ifneq ($(findstring clang,$(CC)),)
WARN += -Wcomma -Wconditional-uninitialized -Wunreachable-code -Wthread-safety
else
WARN += -Wlogical-op -Wduplicated-cond -Wduplicated-branches -Wjump-misses-init -Warith-conversion
endif
WARN += $(if $(filter 1,$(WERROR)),-Werror)
WARN_LIB := -Wconversion -Wsign-conversion

MODE_debug   := -Og -g3 -DLEVEE_DEBUG
MODE_release := -O2 -g -DNDEBUG -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
MODE_asan    := -O1 -g -DLEVEE_DEBUG -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
MODE_ubsan   := -O1 -g -DLEVEE_DEBUG -fsanitize=undefined -fno-sanitize-recover=all
MODE_tsan    := -O1 -g -DLEVEE_DEBUG -fno-omit-frame-pointer -fsanitize=thread
MODE_cov     := -O0 -g -DLEVEE_DEBUG --coverage

STD := -std=c11 -D_POSIX_C_SOURCE=200809L -DLEVEE_WITH_KAFKA=$(if $(filter 0,$(WITH_KAFKA)),0,1) \
	-DLEVEE_WITH_ZLIB=$(if $(filter 0,$(WITH_ZLIB)),0,1) -DLEVEE_WITH_JSON=$(if $(filter 0,$(WITH_JSON)),0,1)
CODEGEN := -fno-common -fvisibility=hidden -fPIC -fstack-protector-strong $(MODE_$(MODE))
ALL_CFLAGS  := $(STD) $(CODEGEN) $(WARN) $(DEP_CFLAGS) $(CFLAGS) -MMD -MP
ALL_LDFLAGS := $(filter -fsanitize% --coverage,$(MODE_$(MODE))) -Wl,-z,relro,-z,now -Wl,--as-needed $(LDFLAGS)
compile = $(call say,CC,$<) mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) $(1) -c -o $@ $<
link    = $(call say,LINK,$@) mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $(1) $(DEP_LIBS)

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: help deps have-deps all lib examples tools tests benches test unit fault fault-kafka soak-kafka sim cases bench \
	demo demo-kafka lint \
	fmt layers symbols mutants kafka-libs install uninstall torture cov valgrind clean FORCE

help: ## this list
	@printf 'levee %s   (variables: MODE=%s CC=%s WITH_KAFKA=%s WITH_ZLIB=%s WITH_JSON=%s V=%s)\n\n' \
	    '$(VERSION)' '$(MODE)' '$(CC)' '$(WITH_KAFKA)' '$(WITH_ZLIB)' '$(WITH_JSON)' '$(V)'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
	    printf '  make %-10s %s\n' "$$name" "$$text"; done

deps: ## install the missing Debian packages, or print the line that does
	@scripts/deps build

# ---- building ----
all: lib examples tools tests benches ## everything below, into build/$(MODE)/
lib: $(STATIC) $(SHARED) ## liblevee.a and liblevee.so
examples: $(EXAMPLES) ## the examples, against the public library only
tools: $(TOOL) ## the levee command
tests: $(TESTS) $(PRELOADS) $(SIDE_PROGRAMS) $(CASE_RUNNER) ## the test programs
benches: $(BENCHES)

have-deps:
ifneq ($(MISSING),)
	@echo "levee: pkg-config lacks some of: $(MODULES) check. On Debian: apt-get install pkg-config" \
	    "liblmdb-dev libxxhash-dev libuv1-dev librdkafka-dev zlib1g-dev libcjson-dev check (or run: make deps)" >&2; exit 1
else
	@:
endif

# Objects are made anew when the compiler or a flag changes, not only when a source does.
$(B)/flags: FORCE
	@mkdir -p $(@D); echo '$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS)' | cmp -s - $@ || \
	    echo '$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS)' > $@

$(LIB_OBJ) $(call objects,$(TOOL_SRC)): $(B)/%.o: %.c $(B)/flags | have-deps
	$(call compile,-I. -Iinclude $(WARN_LIB))
$(call objects,$(EXAMPLE_SRC)): $(B)/%.o: %.c $(B)/flags | have-deps
	$(call compile,-Iinclude $(WARN_LIB))
$(call objects,$(PROGRAM_ALL) $(SUPPORT_SRC) $(PRELOAD_SRC) $(SIDE_SRC) $(CASE_SRC)): \
    $(B)/%.o: %.c $(B)/flags | have-deps
	$(call compile,-I. -Iinclude $(CHECK_CFLAGS))

# One relocatable object whose hidden names are made local: short internal names such as map_insert
# cannot clash with those of a program that links the static library.
$(B)/liblevee.o: $(LIB_OBJ)
	$(call say,LD,$@) $(LD) -r -o $@ $(LIB_OBJ) && $(OBJCOPY) --localize-hidden $@
$(STATIC): $(B)/liblevee.o
	$(call say,AR,$@) rm -f $@ && $(AR) rcs $@ $<
$(B)/$(SONAME): $(LIB_OBJ)
	$(call link,-shared -Wl$(comma)-soname$(comma)$(SONAME) -Wl$(comma)-z$(comma)defs $(LIB_OBJ))
	$(Q)ln -sf $(SONAME) $(B)/liblevee.so
comma := ,

.SECONDEXPANSION:
$(TESTS): $(B)/%: $(B)/%.o $$(call objects,$$(call parts,$$(dir $$*))) $(call objects,$(SUPPORT_SRC)) $(LIB_OBJ)
	$(call link,$^ $(CHECK_LIBS))
$(BENCHES): $(B)/%: $(B)/%.o $$(call objects,$$(call parts,$$(dir $$*))) $(LIB_OBJ)
	$(call link,$^ -lm)
$(CASE_RUNNER): $(call objects,$(CASE_SRC)) $(STATIC)
	$(call link,$^ $(shell $(PKG_CONFIG) --libs libcjson 2>/dev/null))
$(SIDE_PROGRAMS): $(B)/%: $(B)/%.o
	$(call link,$^)
$(PRELOADS): $(B)/%.so: $(B)/%.o
	$(call link,-shared $^ -ldl)
$(EXAMPLES): $(B)/%: $(B)/%.o $(STATIC)
	$(call link,$^)
$(B)/levee: $(call objects,$(TOOL_SRC)) $(LIB_OBJ)
	$(call link,$^)

-include $(wildcard $(foreach d,base io wal checkpoint recovery runtime runtime/operators connectors tests/* tests/cases/runner tests/support/interpose \
	bench examples tools,$(B)/$(d)/*.d))

# ---- checking ----
test: ## everything that must hold, in minutes; ends with "N passed, N failed"
	@scripts/deps build
	@$(PARALLEL) all $(if $(filter 0,$(WITH_KAFKA)),,kafka-libs)
	@MODE=$(MODE) scripts/run-tests $(B)
unit: ## the unit tests
	@$(PARALLEL) tests
	@scripts/run-tests $(B) unit
fault: ## the fault catalogue, scenario by scenario (ONLY=38 for one)
	@$(PARALLEL) all
	@BUILD=$(B) ONLY='$(ONLY)' scripts/fault
fault-kafka: ## the same for Kafka, on real brokers (ONLY=95,expired)
	@scripts/deps build kafka
	@$(PARALLEL) lib tests kafka-libs
	@BUILD=$(B) ONLY='$(ONLY)' scripts/fault-kafka
soak-kafka: ## random kills, stops and copies of a writer and kills of its broker (MINUTES= SEED=)
	@scripts/deps build kafka
	@$(PARALLEL) lib examples tests kafka-libs
	@BUILD=$(B) MINUTES='$(MINUTES)' SEED='$(SEED)' scripts/soak-kafka
sim: ## seeded runs on the simulated machine (SEEDS=n SEED=s repeats one)
	@$(PARALLEL) tests
	@SEEDS='$(SEEDS)' SEED='$(SEED)' $(B)/tests/sim/sim
cases: ## the cases of the DStream model, each straight and killed after every batch
	@$(PARALLEL) tests
	@$(B)/tests/case_runner tests/cases/*.json
bench: ## the ladder of speed: rungs, measured against goal
	@$(PARALLEL) lib benches examples
	@BUILD=$(B) scripts/bench
demo: ## word counts over Kafka's protocol, killed again and again (TEXT= KILLS= OUT= KAFKA=)
	@scripts/deps build
	@$(PARALLEL) lib examples tests
	@BUILD=$(B) TEXT='$(TEXT)' KILLS='$(KILLS)' OUT='$(OUT)' KAFKA='$(KAFKA)' scripts/demo
# Where it cannot be had (exit code 77, and a line that says so) the tests that need it are skipped.
kafka-libs: ## a real Kafka for the tests, once, into build/kafka-cache/ (Java and Maven needed)
	@tests/support/kafka/broker fetch || [ $$? = 77 ]
demo-kafka: ## Kafka to Kafka on a real broker, everything killed (KILLS= BROKER_KILLS=)
	@scripts/deps build kafka
	@$(PARALLEL) lib examples tests
	@BUILD=$(B) KILLS='$(KILLS)' BROKER_KILLS='$(BROKER_KILLS)' SEED='$(SEED)' scripts/demo-kafka
mutants: ## twelve seeded bugs, each of which must make the tests fail
	@scripts/mutants
torture: ## the tests under ASan+UBSan (gcc, clang), TSan and valgrind; takes long
	@scripts/torture
valgrind: ## the unit tests under valgrind
	@$(PARALLEL) tests
	@scripts/run-tests --valgrind $(B) unit
cov: ## line and branch coverage of the library by the tests
	@$(PARALLEL) MODE=cov all
	@find build/cov -name '*.gcda' -delete
	@scripts/run-tests build/cov
	@scripts/coverage build/cov
lint: ## format, clang-tidy, cppcheck, analyzer, shellcheck, spelling, tidy, layers, symbols
	@scripts/deps build lint
	@scripts/lint
fmt: ## format all C files in place
	@git ls-files -co --exclude-standard '*.c' '*.h' | xargs clang-format -i
layers: ## includes follow the arrows between the folders
	@scripts/layers
symbols: ## only levee_* leaves the libraries
	@$(PARALLEL) lib
	@scripts/symbols $(B)

# ---- installing ----
D := $(DESTDIR)$(PREFIX)
install: ## library, headers, pkg-config file, command (PREFIX=/usr/local DESTDIR=)
	@$(PARALLEL) lib tools
	$(Q)install -d $(D)/lib/pkgconfig $(D)/include/levee
	$(Q)install -m 644 include/levee/*.h $(D)/include/levee/
	$(Q)install -m 644 $(STATIC) $(D)/lib/
	$(Q)$(if $(SHARED),install -m 755 $(SHARED) $(D)/lib/ && ln -sf $(SONAME) $(D)/lib/liblevee.so)
	$(Q)$(if $(TOOL),install -d $(D)/bin && install -m 755 $(TOOL) $(D)/bin/)
	$(Q)scripts/pkgconfig '$(PREFIX)' '$(VERSION)' '$(DEP_LIBS)' > $(D)/lib/pkgconfig/levee.pc
	$(Q)if [ -z '$(DESTDIR)' ] && [ "$$(id -u)" = 0 ]; then ldconfig; fi
uninstall: ## what install has put there
	$(Q)rm -rf $(D)/include/levee
	$(Q)rm -f $(D)/lib/liblevee.a $(D)/lib/liblevee.so $(D)/lib/$(SONAME) $(D)/lib/pkgconfig/levee.pc $(D)/bin/levee
clean: ## remove build/
	$(Q)rm -rf build
