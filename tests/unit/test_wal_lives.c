/*
 * Chains of lives of the log that end in a power loss or a process death at any step, also during
 * recovery, against a model that knows for every LSN which frame was given it: whatever was
 * acknowledged is found again, byte by byte, and what is found is a prefix of what was sent. In
 * every other chain the log is trimmed now and then, and its segments are used again. W1 to W9;
 * catalogue 2 to 4 and 33 to 35 at the level of the log.
 */
#include "tests/unit/test_wal_rig.h"

static struct wal_facts facts;

static void scan(void)
{
    wal_facts_release(&facts);
    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_OK);
}

#define LSN_MAX 3000

static struct {
    uint32_t sent[LSN_MAX]; /* by LSN: index into rig.sent */
    uint64_t next;          /* the LSN that the next frame must get */
    uint64_t trimmed;       /* the log may begin here at the latest */
    bool trims;
    int power_losses, kills, dropped, in_recovery;
    uint64_t recycled;
} lives;

/* What the disk holds must be the first frames by LSN, and all that were acknowledged. */
static void check_disk(void)
{
    struct buf buf = {0};

    scan();
    ck_assert_msg(!facts.bad.witnessed, "damage without damage: kind %d", facts.bad.kind);
    ck_assert_uint_le(facts.first_lsn, lives.trimmed);
    ck_assert_uint_eq(facts.entry_count, facts.next_lsn - facts.first_lsn);
    ck_assert_uint_le(facts.next_lsn, lives.next);
    for (uint64_t lsn = facts.next_lsn; lsn < lives.next; lsn++) {
        ck_assert_msg(rig.sent[lives.sent[lsn]].code != LEVEE_OK, "LSN %u was acknowledged",
                      (unsigned)lsn);
        lives.dropped++;
    }
    for (size_t i = 0; i < facts.entry_count; i++) {
        const struct wal_entry *e = &facts.entries[i];
        const struct sent *s = &rig.sent[lives.sent[e->lsn]];
        MUST(wal_read_entry(io, WAL_DIR, &facts, e, &buf, &err) == LEVEE_OK);
        MUST(e->lsn == facts.first_lsn + i && s->frame.lsn == e->lsn && e->type == s->frame.type);
        MUST(e->seq == s->frame.seq && e->len == s->len && e->flags == s->frame.flags);
        MUST(memcmp(buf.data, s->payload, s->len) == 0);
    }
    buf_release(&buf);
    lives.next = facts.next_lsn;
}

static void live(uint64_t *rng)
{
    uint64_t large = lives.trims ? 30000 : 9000; /* many segments, so that they come back */

    for (int i = 0; i < 30 && !io_sim_crashed(io); i++) {
        for (uint64_t n = rng_next(rng) % 4; n > 0; n--) {
            struct sent *s =
                rig_frame(rng_next(rng) % (rng_next(rng) % (lives.trims ? 2 : 8) ? 700 : large));
            ck_assert_int_eq(wal_append(rig.wal, &s->frame, &err), LEVEE_OK);
            ck_assert_uint_eq(s->frame.lsn, lives.next);
            lives.sent[lives.next++] = (uint32_t)(s - rig.sent);
            MUST(lives.next < LSN_MAX);
        }
        if (rng_next(rng) % 8 == 0) {
            rig_run(1000 * MS);
        }
        if (lives.trims && rng_next(rng) % 6 == 0) { /* as a checkpoint does it */
            uint64_t limit = wal_durable_lsn(rig.wal);
            lives.trimmed = limit > lives.trimmed ? limit : lives.trimmed;
            wal_trim(rig.wal, limit);
        }
        for (uint64_t steps = rng_next(rng) % 4; steps > 0; steps--) {
            (void)io_sim_step(io);
        }
    }
}

/* The life ends: by the crash of its faults, or now. */
static void end_life(uint64_t *rng)
{
    bool orderly = !io_sim_crashed(io) && rng_next(rng) % 4 == 0;

    if (!orderly) {
        io_sim_crash(io);
    }
    if (rig.wal) {
        struct wal_stats stats;
        wal_stats(rig.wal, &stats);
        lives.recycled += stats.recycled;
        rig_close();
    }
    if (rng_next(rng) % 2) {
        io_sim_power_loss(io);
        lives.power_losses++;
    } else {
        io_sim_kill(io);
        lives.kills++;
    }
}

static void chain_of_lives(uint64_t seed)
{
    uint64_t rng = seed;

    rig_machine(seed);
    lives.next = lives.trimmed = 1;
    lives.trims = seed % 2;
    ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
    for (int life = 0; life < 12; life++) {
        struct sim_faults faults = {.seed = rng_next(&rng),
                                    .keep_per_mille = (uint32_t)(rng_next(&rng) % 1000),
                                    .crash_at_step = rng_next(&rng) % (lives.trims ? 240 : 120)};
        faults.garble_per_mille = (uint32_t)(rng_next(&rng) % (1001 - faults.keep_per_mille));
        io_sim_set_faults(io, &faults);
        if (rig.wal) {
            live(&rng);
        }
        end_life(&rng);
        check_disk();
        faults.crash_at_step = rng_next(&rng) % 40; /* recovery, too, may be cut off */
        io_sim_set_faults(io, &faults);
        int code = rig_recover(&err);
        ck_assert(code == (io_sim_crashed(io) ? LEVEE_ECRASHED : LEVEE_OK));
        lives.in_recovery += code != LEVEE_OK;
        tape.count = 0; /* nobody looks at it here */
    }
    io_sim_crash(io);
    if (rig.wal) {
        rig_close();
    }
    io_sim_kill(io);
    check_disk();
    wal_facts_release(&facts);
    rig_end();
}

START_TEST(chains_of_lives_lose_nothing_acknowledged)
{
    memset(&lives, 0, sizeof lives);
    for (uint64_t seed = 0; seed < 300; seed++) {
        chain_of_lives(seed);
    }
    ck_assert_int_gt(lives.power_losses, 500);
    ck_assert_int_gt(lives.kills, 400);
    ck_assert_int_gt(lives.dropped, 200);
    ck_assert_int_gt(lives.in_recovery, 100);
    ck_assert_uint_gt(lives.recycled, 300);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_lives");
    TCase *t = tcase_create("lives");

    tcase_add_test(t, chains_of_lives_lose_nothing_acknowledged);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
