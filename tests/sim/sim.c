/*
 * sim: seeded lives of a whole context on the simulated machine (power loss and process death).
 *
 *   SEEDS=n SEED=s sim      n seeds from s on; a failing seed prints the command that repeats it,
 * byte for byte VERBOSE=1               what the context says
 *
 * Each seed is a chain of at least five crashes, each life starting from the image the last crash
 * left; then a life that may finish. Distinct crashes are counted by (step, image).
 */
#include <stdlib.h>

#include "tests/sim/world.h"

static uint64_t env(const char *name, uint64_t fallback)
{
    const char *s = getenv(name);

    return s && *s ? strtoull(s, NULL, 10) : fallback;
}

static void print_histogram(const struct world_stats *s)
{
    static const char *const kinds[] = {"starting or recovering", "receiving", "computing",
                                        "committing", "checkpointing"};
    size_t n;
    const char *const *names = levee_crash_point_names(&n);

    (void)printf("in flight at the crash:");
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        (void)printf("%s %s %llu", i ? "," : "", kinds[i], (unsigned long long)s->in_flight[i]);
    }
    (void)printf("\nlast named step before the crash:\n");
    for (size_t i = 0; i < n; i++) {
        if (s->by_point[i]) {
            (void)printf("  %-28s %llu\n", names[i], (unsigned long long)s->by_point[i]);
        }
    }
}

int main(void)
{
    uint64_t seeds = env("SEEDS", 200), first = env("SEED", 1), failed = 0, run = 0;
    uint64_t recycling = 0;
    struct world_stats stats = {0};

    for (uint64_t i = 0; i < seeds; i++) {
        char why[512] = "";
        struct world_options o = {
            .seed = first + i,
            .lives = 5 + (uint32_t)((first + i) % 4),
            .records = 120 + (uint32_t)((first + i) * 37 % 280),
            .kills_only = (first + i) % 7 == 0,
            .verbose = env("VERBOSE", 0) != 0,
        };
        uint64_t recycled = stats.recycled;
        run++;
        if (!world_run(&o, &stats, why)) {
            failed++;
            (void)printf("FAILED: %s\n  repeat with: make sim SEEDS=1 SEED=%llu\n", why,
                         (unsigned long long)o.seed);
            (void)fflush(stdout);
            if (failed >= 5) {
                break;
            }
        }
        recycling += stats.recycled > recycled;
    }
    (void)printf("%llu crashes over %llu lives, %llu records read again from their source\n",
                 (unsigned long long)stats.crashes, (unsigned long long)stats.lives,
                 (unsigned long long)stats.reread);
    (void)printf("%llu log segments began a second life, in %llu seeds of %llu\n",
                 (unsigned long long)stats.recycled, (unsigned long long)recycling,
                 (unsigned long long)run);
    print_histogram(&stats);
    (void)printf("%llu passed, %llu failed\n", (unsigned long long)(run - failed),
                 (unsigned long long)failed);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
