/*
 * Chains of crashes on the simulated machine (power loss, and process death every seventh seed): a
 * seeded sample of what `make sim` runs at length. Faults 1-9, 13-18, 20, 25-28, 32-36 strike at
 * random steps; the oracle is world.c's.
 */
#include "tests/support/suite.h"
#include "tests/sim/world.h"

#define SEEDS 60

START_TEST(f20_chains_of_crashes_lose_and_repeat_nothing)
{
    struct world_stats stats = {0};
    char why[512] = "";

    for (uint64_t i = 0; i < SEEDS; i++) {
        uint64_t seed = 10000 + (uint64_t)_i * SEEDS + i;
        struct world_options o = {.seed = seed,
                                  .lives = 5 + (uint32_t)(seed % 4),
                                  .records = 40 + (uint32_t)(seed * 37 % 120),
                                  .kills_only = seed % 7 == 0};
        ck_assert_msg(world_run(&o, &stats, why), "%s; repeat with: make sim SEEDS=1 SEED=%llu",
                      why, (unsigned long long)seed);
    }
    ck_assert_uint_gt(stats.crashes, SEEDS);
    ck_assert_uint_gt(stats.reread, SEEDS);
}
END_TEST

/* Every step of a first life, one after the other: the crash strikes there. */
START_TEST(a_crash_at_every_step_of_a_first_life)
{
    char why[512] = "";

    for (uint64_t step = 1; step <= 150; step++) {
        struct world_stats stats = {0};
        struct world_options o = {
            .seed = 77 + (uint64_t)_i, .lives = 2, .records = 60, .crash_at = step};
        ck_assert_msg(world_run(&o, &stats, why), "%s; seed %d, first crash at step %llu", why,
                      77 + _i, (unsigned long long)step);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("chains");
    TCase *t = tcase_create("crashes");

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, f20_chains_of_crashes_lose_and_repeat_nothing, 0, 10);
    tcase_add_loop_test(t, a_crash_at_every_step_of_a_first_life, 0, 4);
    suite_add_tcase(s, t);
    return suite_main(s);
}
