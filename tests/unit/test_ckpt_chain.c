/*
 * Chains against brute force on small random sets of files, and the fold rule over thousands of
 * publications with random sizes and damage: its promises C7 and C8 of checkpoint/README.md. Pure
 * functions: no death, no power loss.
 */
#include "tests/unit/test_ckpt.h"

#include <math.h>

static struct ckpt_versions set;
static struct ckpt_version files[CKPT_VERSIONS_MAX];

static void clear(void)
{
    set = (struct ckpt_versions){.items = files, .cap = CKPT_VERSIONS_MAX};
}

static void add(uint64_t sequence, uint64_t from, uint64_t to, uint64_t size)
{
    ck_assert_uint_lt(set.count, set.cap);
    files[set.count++] = (struct ckpt_version){
        .sequence = sequence, .from = from, .to = to, .size = size, .verified = true};
}

/* ---- brute force: every path, by trying ---- */

#define SMALL_MAX 10

struct brute {
    bool verified_only;
    uint64_t
        paths[1u << SMALL_MAX]; /* `to` of the path whose files are exactly this set; 0: none */
};

static void walk(struct brute *b, uint64_t at, unsigned used)
{
    b->paths[used] = at;
    for (size_t i = 0; i < set.count; i++) {
        const struct ckpt_version *v = &files[i];
        if (!v->bad && (v->verified || !b->verified_only) && v->from == at && v->to > at) {
            walk(b, v->to, used | 1u << i);
        }
    }
}

static void brute_paths(struct brute *b, bool verified_only)
{
    memset(b, 0, sizeof *b);
    b->verified_only = verified_only;
    walk(b, 0, 0);
}

/* The files from the last to the first by sequence: the newer set wins. */
static bool is_newer(unsigned a, unsigned b)
{
    uint64_t at_a = UINT64_MAX;
    uint64_t at_b = UINT64_MAX;

    while (a != 0 && b != 0) {
        int ia = -1;
        int ib = -1;
        for (int i = 0; i < SMALL_MAX; i++) {
            ia = (a >> i & 1) && files[i].to <= at_a && (ia < 0 || files[i].to > files[ia].to) ? i
                                                                                               : ia;
            ib = (b >> i & 1) && files[i].to <= at_b && (ib < 0 || files[i].to > files[ib].to) ? i
                                                                                               : ib;
        }
        if (files[ia].sequence != files[ib].sequence) {
            return files[ia].sequence > files[ib].sequence;
        }
        a &= ~(1u << ia);
        b &= ~(1u << ib);
    }
    return false;
}

static unsigned brute_best(const struct brute *b)
{
    unsigned best = 0;

    for (unsigned s = 1; s < 1u << set.count; s++) {
        int bits = __builtin_popcount(s) - __builtin_popcount(best);
        if (b->paths[s] > b->paths[best] || (b->paths[s] > 0 && b->paths[s] == b->paths[best] &&
                                             (bits < 0 || (bits == 0 && is_newer(s, best))))) {
            best = s;
        }
    }
    return best;
}

static uint64_t brute_disjoint(const struct brute *b)
{
    uint64_t m = 0;

    for (unsigned s = 1; s < 1u << set.count; s++) {
        for (unsigned t = 1; b->paths[s] > m && t < 1u << set.count; t++) {
            uint64_t least = b->paths[s] < b->paths[t] ? b->paths[s] : b->paths[t];
            m = (s & t) == 0 && least > m ? least : m;
        }
    }
    return m;
}

static unsigned files_of(const struct ckpt_chain *c)
{
    unsigned s = 0;

    for (size_t i = 0; i < c->count; i++) {
        ck_assert_uint_eq(s >> c->index[i] & 1, 0);
        s |= 1u << c->index[i];
    }
    return s;
}

static void random_set(uint64_t *seed)
{
    clear();
    uint64_t n = rng_next(seed) % (SMALL_MAX + 1);
    uint64_t batches = 2 + rng_next(seed) % 6;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t a = rng_next(seed) % batches;
        uint64_t b = rng_next(seed) % batches;
        add(i + 1, rng_next(seed) % 3 == 0 ? 0 : a, b, 1 + rng_next(seed) % 100);
        files[i].bad = rng_next(seed) % 10 == 0;
        files[i].verified = rng_next(seed) % 8 != 0;
    }
}

START_TEST(best_and_disjoint_chains_equal_brute_force)
{
    static struct brute all;
    static struct brute verified;
    struct ckpt_chain best;
    struct ckpt_chain pair[2];
    uint64_t seed = 77;
    unsigned twice = 0;

    for (int round = 0; round < 6000; round++) {
        random_set(&seed);
        brute_paths(&all, false);
        brute_paths(&verified, true);
        ckpt_chain_best(&set, &best);
        unsigned want = brute_best(&all);
        ck_assert_uint_eq(best.to, all.paths[want]);
        ck_assert_uint_eq(files_of(&best), want);

        uint64_t m = ckpt_chain_disjoint(&set, pair);
        ck_assert_uint_eq(m, brute_disjoint(&verified));
        unsigned a = files_of(&pair[0]);
        unsigned b = files_of(&pair[1]);
        ck_assert_uint_eq(a & b, 0);
        ck_assert_uint_eq(verified.paths[a], pair[0].to);
        ck_assert_uint_eq(verified.paths[b], pair[1].to);
        ck_assert(m == 0 || (pair[0].to >= m && pair[1].to >= m));
        twice += m > 0;
    }
    ck_assert_uint_gt(twice, 500);
}
END_TEST

/* C7, whatever the set: what retention leaves has the same best chain and the same disjoint batch.
 */
START_TEST(retention_loses_neither_chain)
{
    static struct brute before;
    static struct brute after;
    bool keep[SMALL_MAX];
    uint64_t seed = 5;
    unsigned dropped = 0;

    for (int round = 0; round < 6000; round++) {
        random_set(&seed);
        brute_paths(&before, false);
        uint64_t best = before.paths[brute_best(&before)];
        uint64_t hoped = brute_disjoint(&before);
        brute_paths(&before, true);
        uint64_t m = brute_disjoint(&before);

        ckpt_retain(&set, keep);
        for (size_t i = 0; i < set.count; i++) {
            dropped += !keep[i];
            files[i].bad = files[i].bad || !keep[i];
        }
        brute_paths(&after, false);
        ck_assert_uint_eq(after.paths[brute_best(&after)], best);
        ck_assert_uint_eq(brute_disjoint(&after), hoped);
        brute_paths(&after, true);
        ck_assert_uint_eq(brute_disjoint(&after), m);
    }
    ck_assert_uint_gt(dropped, 5000);
}
END_TEST

START_TEST(nothing_gives_empty_chains)
{
    struct ckpt_chain chain;
    struct ckpt_chain pair[2];
    struct ckpt_fold_plan plan;

    clear();
    ckpt_chain_best(&set, &chain);
    ck_assert_uint_eq(chain.count, 0);
    ck_assert_uint_eq(chain.to, 0);
    ck_assert_uint_eq(ckpt_chain_disjoint(&set, pair), 0);
    ck_assert(!ckpt_fold_due(&set, 4, &plan));
    add(1, 3, 5, 10); /* reachable from nowhere */
    ckpt_chain_best(&set, &chain);
    ck_assert_uint_eq(chain.count, 0);
}
END_TEST

START_TEST(a_chain_longer_than_can_be_loaded_does_not_count)
{
    struct ckpt_chain chain;

    clear();
    for (uint64_t b = 0; b < 70; b++) {
        add(b + 1, b, b + 1, 10);
        ck_assert_int_eq(ckpt_chain_full(&set, b + 1), b + 1 == CKPT_CHAIN_MAX);
        ckpt_chain_best(&set, &chain);
        ck_assert_uint_eq(chain.to, b + 1 < CKPT_CHAIN_MAX ? b + 1 : CKPT_CHAIN_MAX);
    }
    add(100, 0, 60, 10);
    ckpt_chain_best(&set, &chain);
    ck_assert_uint_eq(chain.to, 70);
    ck_assert_uint_eq(chain.count, 11);
    ck_assert(!ckpt_chain_full(&set, 70));
}
END_TEST

START_TEST(as_many_files_as_a_directory_may_hold)
{
    struct ckpt_chain pair[2];
    bool keep[CKPT_VERSIONS_MAX];
    uint64_t seed = 9;
    size_t kept = 0;

    clear();
    for (uint64_t i = 0; i < CKPT_VERSIONS_MAX; i++) {
        uint64_t to = 1 + rng_next(&seed) % 200;
        add(i + 1, rng_next(&seed) % 8 == 0 ? 0 : rng_next(&seed) % to, to, 10);
    }
    uint64_t m = ckpt_chain_disjoint(&set, pair);
    ck_assert_uint_gt(m, 150);
    ckpt_retain(&set, keep);
    for (size_t i = 0; i < set.count; i++) {
        kept += keep[i];
    }
    ck_assert_uint_lt(kept, 40);
}
END_TEST

/* ---- the fold rule, simulated ---- */

static double touched[20001]; /* keys written up to a batch, with repetitions */
static double state_keys;

/* How many bytes the step a → b has when each write hits one of state_keys at random. */
static uint64_t step_size(uint64_t a, uint64_t b)
{
    double keys = state_keys * (1 - exp(-(touched[b] - touched[a]) / state_keys));

    return 8192 + (uint64_t)(24 * (a == 0 ? state_keys : keys));
}

struct outcome {
    double published, folded; /* bytes */
    size_t files_max;
    unsigned folds, bases;
};

static void drop(size_t i)
{
    memmove(&files[i], &files[i + 1], (set.count - i - 1) * sizeof *files);
    set.count--;
}

static void retain(void)
{
    bool keep[CKPT_VERSIONS_MAX];
    struct ckpt_chain pair[2];
    uint64_t m = ckpt_chain_disjoint(&set, pair);

    ckpt_retain(&set, keep);
    for (size_t i = set.count; i-- > 0;) {
        if (!keep[i]) {
            drop(i);
        }
    }
    ck_assert_uint_eq(ckpt_chain_disjoint(&set, pair), m);
}

/* The plan must be a path that ends where the best chain ends. */
static void check_plan(const struct ckpt_fold_plan *plan)
{
    struct ckpt_chain best;
    uint64_t at = plan->from;

    ckpt_chain_best(&set, &best);
    ck_assert_uint_eq(plan->to, best.to);
    for (size_t i = 0; i < plan->parts.count; i++) {
        ck_assert_uint_eq(files[plan->parts.index[i]].from, at);
        at = files[plan->parts.index[i]].to;
    }
    ck_assert_uint_eq(at, plan->to);
}

static void finish_fold(const struct ckpt_fold_plan *plan, uint64_t *sequence, struct outcome *o)
{
    struct ckpt_chain pair[2];

    add((*sequence)++, plan->from, plan->to, step_size(plan->from, plan->to));
    o->folded += (double)files[set.count - 1].size;
    o->folds++;
    o->bases += plan->from == 0;
    ck_assert_uint_ge(ckpt_chain_disjoint(&set, pair), plan->to); /* C8, first half */
}

/* Publishes n versions, each of about `delta` keys; a fold takes as long as `lag` publications;
 * every damage_every-th time a random file turns bad. */
static struct outcome simulate(double keys, double delta, uint32_t every, uint64_t n, uint64_t lag,
                               uint64_t damage_every, uint64_t seed)
{
    struct outcome o = {0};
    struct ckpt_chain best = {0};
    struct ckpt_fold_plan plan;
    uint64_t sequence = 1;
    uint64_t fold_ends = 0; /* 0: none in progress */

    clear();
    state_keys = keys;
    for (uint64_t b = 1; b <= n; b++) {
        touched[b] = touched[b - 1] + delta * (0.2 + (double)(rng_next(&seed) % 1600) / 1000);
        /* After damage the best chain ends earlier: the log is replayed and the step starts there.
         */
        add(sequence++, best.to, b, step_size(best.to, b));
        o.published += b > 1 ? (double)files[set.count - 1].size : 0;
        if (fold_ends == 0 && ckpt_fold_due(&set, every, &plan)) {
            check_plan(&plan);
            fold_ends = b + lag;
        }
        if (fold_ends == b) {
            finish_fold(&plan, &sequence, &o);
            fold_ends = 0;
        }
        o.files_max = set.count > o.files_max ? set.count : o.files_max;
        retain();
        if (damage_every > 0 && b % damage_every == 0) {
            drop((size_t)(rng_next(&seed) % set.count));
        }
        ckpt_chain_best(&set, &best);
    }
    return o;
}

/* C8: files and write amplification, with states from 3 to 30,000 deltas. The naive rule (a new
 * base every 16 checkpoints) writes state / (16 delta) bytes per byte. */
START_TEST(folds_bound_files_and_write_amplification)
{
    static const struct {
        double ratio, amplification;
    } cases[] = {{3, 4}, {30, 6}, {300, 11}, {3000, 20}, {30000, 40}};
    double ratio = cases[_i].ratio;
    struct outcome o = simulate(1000 * ratio, 1000, 4, 10000, 0, 0, 42 + (uint64_t)_i);
    /* the first base of all is the state itself and nobody's fault */
    double amplification = (o.folded - 24 * state_keys) / o.published;

    printf(
        "state/delta %6.0f: folded %5.2f bytes per byte, %u folds, %u bases, %zu files at most\n",
        ratio, amplification, o.folds, o.bases, o.files_max);
    ck_assert_uint_eq(o.folds, 2500);
    ck_assert_uint_le(o.files_max, 24);
    ck_assert_double_lt(amplification, cases[_i].amplification);
}
END_TEST

START_TEST(folds_at_other_intervals)
{
    static const uint32_t every[] = {1, 2, 8, 16, 1000};

    for (size_t i = 0; i < ARRAY_LEN(every); i++) {
        uint32_t used = every[i] > 16 ? 16 : every[i];
        struct outcome o = simulate(300000, 1000, every[i], 3000, 0, 0, i);
        ck_assert_uint_eq(o.folds, 3000 / used);
        ck_assert_uint_le(o.files_max, 15 + 2 * used);
    }
}
END_TEST

/* Any file may turn bad at any time. The next folds make two disjoint chains again, and the bounds
 * hold. */
START_TEST(folds_recover_from_damage)
{
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct outcome o = simulate(100000, 1000, 4, 3000, 0, 7 + seed, seed);
        ck_assert_uint_gt(o.folds, 400);
        ck_assert_uint_le(o.files_max, 24);
    }
}
END_TEST

/* A fold of a large state on a slow disk: versions go on being published meanwhile. More files
 * wait, but the rule does not panic into writing bases, which would make it slower still. */
START_TEST(slow_folds_stay_bounded)
{
    for (uint64_t lag = 1; lag <= 12; lag++) {
        struct outcome o = simulate(1000000, 1000, 4, 5000, lag, 0, lag);
        ck_assert_uint_le(o.files_max, 24 + 2 * lag);
        ck_assert_double_lt(o.folded / o.published, 16);
        ck_assert_uint_lt(o.bases, 60);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ckpt_chain");
    TCase *tc = tcase_create("chain");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, best_and_disjoint_chains_equal_brute_force);
    tcase_add_test(tc, retention_loses_neither_chain);
    tcase_add_test(tc, nothing_gives_empty_chains);
    tcase_add_test(tc, a_chain_longer_than_can_be_loaded_does_not_count);
    tcase_add_test(tc, as_many_files_as_a_directory_may_hold);
    tcase_add_loop_test(tc, folds_bound_files_and_write_amplification, 0, 5);
    tcase_add_test(tc, folds_at_other_intervals);
    tcase_add_test(tc, slow_folds_stay_bounded);
    tcase_add_test(tc, folds_recover_from_damage);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
