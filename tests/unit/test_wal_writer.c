/*
 * The writer on the simulated machine, W1 to W5 of wal_writer.c: what it writes is read back by the
 * reference, byte by byte, and the tape tells in which order things happened. Failures of writes
 * and syncs (catalogue 38, 40, 47) are final.
 */
#include "tests/unit/test_wal_rig.h"

static struct ref_log r;

/* ---- what the tape and the disk must show ---- */

/* W3 from the bytes: every frame carries the last LSN of the group before its own. */
static void check_witnesses(void)
{
    for (int i = 0; i < r.frame_count; i++) {
        const struct ref_frame *f = &r.frames[i];
        MUST(f->durable == r.groups[f->group].first - 1);
    }
}

/* Everything sent is on disk, in order, and nothing else is. */
static void check_all(size_t frames)
{
    rig_read(&r, 100);
    rig_same(&r, frames);
    check_witnesses();
    rig_check_order();
    rig_check_acknowledgements();
    ref_release(&r);
}

/* ---- groups ---- */

START_TEST(a_new_log_is_durable_when_it_is_open)
{
    rig_new(1);
    ck_assert_uint_eq(wal_next_lsn(rig.wal), 1);
    ck_assert_uint_eq(wal_durable_lsn(rig.wal), 0);
    ck_assert_uint_eq(wal_witnessed_lsn(rig.wal), 0);
    ck_assert_uint_eq(wal_epoch(rig.wal), 1);
    size_t opened = tape.count;
    ck_assert_int_eq(tape.events[opened - 1].kind, TAPE_SYNC_DIR);
    ck_assert_int_eq(tape.events[opened - 2].kind, TAPE_RENAME);
    rig_settle();
    ck_assert_uint_eq(tape_find(opened, TAPE_RENAME, ".seg"), 2); /* the spares */
    rig_close();
    rig_read(&r, 1);
    ck_assert_int_eq(r.group_count, 1);
    ck_assert_uint_eq(r.segments[0].epoch, 1);
    ref_release(&r);
    rig_end();
}
END_TEST

START_TEST(what_is_queued_becomes_one_group)
{
    rig_new(2);
    rig_send_many(7, 100);
    ck_assert_uint_eq(rig.done_count, 0);
    ck_assert_uint_eq(wal_next_lsn(rig.wal), 8);
    rig_settle();
    ck_assert_uint_eq(rig_acknowledged(), 7);
    ck_assert_uint_eq(wal_durable_lsn(rig.wal), 7);
    ck_assert_uint_eq(wal_witnessed_lsn(rig.wal), 0);
    rig_send_many(1, 0);
    rig_settle();
    ck_assert_uint_eq(wal_durable_lsn(rig.wal), 8);
    ck_assert_uint_eq(wal_witnessed_lsn(rig.wal), 7);
    rig_read(&r, 1);
    ck_assert_int_eq(r.group_count, 3); /* with the one that creation wrote */
    ck_assert_uint_eq(r.groups[1].last, 7);
    ref_release(&r);
    check_all(8);
    rig_end();
}
END_TEST

/* The end of a group at every distance from a boundary, whatever the lengths. */
START_TEST(groups_lie_on_boundaries_for_every_length)
{
    rig_new(3);
    for (size_t len = 0; len < BLOCK + 64; len += 8) {
        rig_send(len + len / 8 % 8); /* padded to 8 or not */
        rig_settle();
    }
    rig_run(2000 * MS);
    check_all(rig.count);
    rig_end();
}
END_TEST

START_TEST(random_lives_of_the_writer)
{
    for (uint64_t seed = 0; seed < 30; seed++) {
        uint64_t rng = seed;
        rig_new(seed);
        while (rig.count < 150) {
            uint64_t n = 1 + rng_next(&rng) % 12;
            size_t max = rng_next(&rng) % 10 == 0 ? 20000 : 900;
            for (uint64_t i = 0; i < n; i++) {
                rig_send(rng_next(&rng) % max);
            }
            switch (rng_next(&rng) % 4) {
            case 0: /* nothing: more comes before the log lane had its turn */
                break;
            case 1:
                rig_run(rng_next(&rng) % (1500 * MS));
                break;
            default:
                for (uint64_t steps = rng_next(&rng) % 6; steps > 0; steps--) {
                    (void)io_sim_step(io);
                }
                break;
            }
        }
        rig_close();
        ck_assert_uint_eq(rig_acknowledged(), rig.count);
        check_all(rig.count);
        rig_end();
    }
}
END_TEST

START_TEST(a_chain_of_frames_is_taken_whole_and_in_order)
{
    rig_new(4);
    struct sent *a = rig_frame(10), *b = rig_frame(20), *c = rig_frame(30);
    a->frame.link.next = &b->frame.link;
    b->frame.link.next = &c->frame.link;
    c->frame.link.next = NULL;
    ck_assert_int_eq(wal_append(rig.wal, &a->frame, &err), LEVEE_OK);
    ck_assert_uint_eq(a->frame.lsn, 1);
    ck_assert_uint_eq(c->frame.lsn, 3);
    rig_settle();
    check_all(3);
    rig_end();
}
END_TEST

/* More frames than fit one vector: several writes, one sync, one group. */
START_TEST(a_group_of_many_frames_is_synced_once)
{
    rig_machine(5);
    rig.opt.segment_bytes = 1u << 20;
    ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
    rig_settle();
    size_t before = tape.count;
    rig_send_many(1000, 17);
    rig_settle();
    ck_assert_uint_eq(rig_acknowledged(), 1000);
    ck_assert_uint_eq(tape_find(before, TAPE_SYNC, ".seg"), 1);
    ck_assert_uint_ge(tape_find(before, TAPE_WRITE, ".seg"), 5);
    check_all(1000);
    rig_end();
}
END_TEST

START_TEST(large_queues_are_cut_into_groups_of_the_maximum)
{
    rig_machine(6);
    rig.opt.group_bytes_max = 10000;
    ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
    rig_settle();
    rig_send_many(11, 3000 - 64);
    rig_send(25000); /* larger than the maximum: a group of its own */
    rig_send_many(2, 100);
    rig_settle();
    rig_read(&r, 10);
    static const uint64_t lasts[] = {0, 3, 6, 9, 11, 12, 14};
    ck_assert_int_eq(r.group_count, ARRAY_LEN(lasts));
    for (int i = 0; i < r.group_count; i++) {
        ck_assert_uint_eq(r.groups[i].last, lasts[i]);
    }
    ref_release(&r);
    check_all(14);
    rig_end();
}
END_TEST

/* ---- the largest frame ---- */

START_TEST(the_largest_frame_fits_and_one_byte_more_is_refused)
{
    size_t max = wal_payload_max(WAL_SEGMENT_MIN);

    rig_new(7);
    rig_settle();
    rig_send(max);
    rig_send(max);
    struct sent *small = rig_frame(1), *big = rig_frame(max + 1);
    small->frame.link.next = &big->frame.link;
    big->frame.link.next = NULL;
    ck_assert_int_eq(wal_append(rig.wal, &small->frame, &err), LEVEE_EWAL_TOO_BIG);
    char text[64];
    (void)snprintf(text, sizeof text, "%zu", max + 1);
    ck_assert_str_eq(err.found, text);
    (void)snprintf(text, sizeof text, "at most %zu bytes", max);
    ck_assert_str_eq(err.expected, text);
    ck_assert_uint_eq(wal_next_lsn(rig.wal), 3); /* nothing of the chain was taken */
    free(small->payload);
    free(big->payload);
    rig.count -= 2;
    rig_run(10 * MS);
    ck_assert_uint_eq(rig_acknowledged(), 2);
    rig_send(5); /* and the log goes on */
    rig_settle();
    check_all(3);
    rig_end();
}
END_TEST

/* ---- idle seals ---- */

START_TEST(a_second_of_quiet_seals_once)
{
    rig_new(8);
    rig_settle();
    rig_send(10);
    rig_settle();
    size_t before = tape.count;
    rig_run(999 * MS);
    ck_assert_uint_eq(tape.count, before);
    ck_assert_uint_eq(wal_witnessed_lsn(rig.wal), 0);
    rig_run(1 * MS);
    ck_assert_uint_eq(tape_find(before, TAPE_SYNC, ".seg"), 1);
    ck_assert_uint_eq(wal_witnessed_lsn(rig.wal), 1);
    ck_assert_uint_eq(wal_durable_lsn(rig.wal), 1);
    before = tape.count;
    rig_run(3600 * 1000 * MS); /* idle is free */
    ck_assert_uint_eq(tape.count, before);
    rig_read(&r, 1);
    ck_assert_int_eq(r.group_count, 3);
    ck_assert_uint_eq(r.groups[2].last + 1, r.groups[2].first);
    ck_assert_int_eq(r.frames[r.frame_count - 2].type, WAL_IDLE_SEAL);
    ck_assert_uint_eq(r.frames[r.frame_count - 2].durable, 1);
    ref_release(&r);
    check_all(1);
    rig_end();
}
END_TEST

START_TEST(traffic_puts_the_idle_seal_off)
{
    struct wal_stats stats;

    rig_new(9);
    rig_settle();
    for (int i = 0; i < 20; i++) {
        rig_send(10);
        rig_run(600 * MS);
    }
    wal_stats(rig.wal, &stats);
    ck_assert_uint_eq(stats.idle_seals, 0);
    rig_run(400 * MS);
    wal_stats(rig.wal, &stats);
    ck_assert_uint_eq(stats.idle_seals, 1);
    check_all(20);
    rig_end();
}
END_TEST

/* Catalogue 52 after a restart: frames that recovery has written again get their witness, too. */
START_TEST(a_quiet_log_gets_its_witness_after_a_restart)
{
    rig_new(10);
    rig_settle();
    rig_send_many(3, 10);
    rig_settle();
    io_sim_crash(io);
    rig_close();
    io_sim_kill(io);
    ck_assert_int_eq(rig_recover(&err), LEVEE_OK);
    ck_assert_uint_eq(wal_durable_lsn(rig.wal), 3);
    ck_assert_uint_eq(wal_witnessed_lsn(rig.wal), 0);
    rig_run(1000 * MS);
    ck_assert_uint_eq(wal_witnessed_lsn(rig.wal), 3);
    rig_close();
    ck_assert_int_eq(rig_recover(&err), LEVEE_OK); /* nothing to rewrite: no seal needed */
    rig_settle();
    size_t before = tape.count;
    rig_run(10000 * MS);
    ck_assert_uint_eq(tape.count, before);
    rig_end();
}
END_TEST

/* ---- rolling ---- */

START_TEST(a_full_segment_is_followed_by_a_spare)
{
    rig_new(11);
    rig_settle();
    rig_send_many(12, 5000);
    rig_settle();
    ck_assert_uint_eq(rig_acknowledged(), 12);
    rig_send_many(12, 5000);
    rig_run(10 * MS);
    ck_assert_uint_eq(rig_acknowledged(), 24);
    rig_read(&r, 10);
    ck_assert_int_ge(r.segment_count, 3);
    for (int i = 1; i < r.segment_count && r.segments[i].first_lsn; i++) {
        const struct ref_segment *s = &r.segments[i];
        const uint8_t *start = s->bytes + 8192 + 64;
        const struct ref_group *last = NULL;
        for (int g = 0; g < r.group_count; g++) {
            last = r.groups[g].segment == i - 1 ? &r.groups[g] : last;
        }
        ck_assert_ptr_nonnull(last);
        ck_assert_uint_eq(ref_get(start, 8), 1); /* epoch */
        ck_assert_uint_eq(ref_get(start + 8, 8), last->last + 1);
        ck_assert_uint_eq(ref_get(start + 16, 8), r.segments[i - 1].number);
        ck_assert_uint_eq(ref_get(start + 24, 8), last->end);
        ck_assert_uint_eq(ref_get(start + 32, 8), last->last);
    }
    ref_release(&r);
    check_all(24);
    rig_end();
}
END_TEST

/* The idle seal does not fit any more: it begins the next segment. */
START_TEST(an_idle_seal_rolls_too)
{
    struct wal_stats stats;

    rig_new(12);
    rig_settle();
    /* The first segment has 64 KiB beyond creation's group; fill it to the last block. */
    for (int i = 0; i < 16; i++) {
        rig_send(BLOCK - 64 - 96 - 64);
        rig_settle();
    }
    wal_stats(rig.wal, &stats);
    ck_assert_uint_eq(stats.rolls, 0);
    rig_run(1000 * MS);
    wal_stats(rig.wal, &stats);
    ck_assert_uint_eq(stats.rolls, 1);
    ck_assert_uint_eq(stats.idle_seals, 1);
    ck_assert_uint_eq(wal_witnessed_lsn(rig.wal), 16);
    check_all(16);
    rig_end();
}
END_TEST

/* ---- hooks ---- */

static int gathers, to_gather;

static void gather(void *arg)
{
    MUST(arg == &gathers);
    gathers++;
    while (to_gather > 0) {
        to_gather--;
        rig_send(50);
    }
}

START_TEST(the_owner_is_asked_before_each_group)
{
    rig_machine(13);
    rig.opt.gather = gather;
    rig.opt.gather_arg = &gathers;
    gathers = 0;
    ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
    rig_settle();
    ck_assert_int_eq(gathers, 0);
    to_gather = 3;
    wal_kick(rig.wal); /* nothing is queued, but the owner has something */
    wal_kick(rig.wal);
    rig_settle();
    ck_assert_uint_eq(rig_acknowledged(), 3);
    ck_assert_int_ge(gathers, 2);
    to_gather = 2;
    rig_close(); /* what it still holds is written at the end */
    ck_assert_uint_eq(rig_acknowledged(), 5);
    check_all(5);
    rig_end();
}
END_TEST

static int follow_ups;

static void done_and_again(struct wal_frame *frame, int code)
{
    rig_done(frame, code);
    if (follow_ups-- > 0) {
        rig_send(10)->frame.done = done_and_again;
    }
}

START_TEST(done_may_append)
{
    rig_new(14);
    follow_ups = 50;
    rig_send(10)->frame.done = done_and_again;
    rig_settle();
    ck_assert_uint_eq(rig_acknowledged(), 51);
    check_all(51);
    rig_end();
}
END_TEST

/* ---- the end ---- */

START_TEST(closing_writes_what_is_queued_and_seals)
{
    rig_new(40);
    rig_send_many(30, 1000);
    rig_close();
    ck_assert_uint_eq(rig_acknowledged(), 30);
    rig_read(&r, 5);
    const struct ref_group *last = &r.groups[r.group_count - 1];
    ck_assert_uint_eq(last->first, 31);
    ck_assert_uint_eq(last->last, 30);
    ref_release(&r);
    check_all(30);
    wal_close(NULL);
    rig_end();
}
END_TEST

START_TEST(the_numbers_add_up)
{
    struct wal_stats stats;

    rig_new(44);
    rig_settle();
    rig_send_many(5, 100);
    rig_settle();
    rig_send_many(5, 6000);
    rig_settle();
    rig_run(1000 * MS);
    wal_stats(rig.wal, &stats);
    ck_assert_uint_eq(stats.frames, 10);
    ck_assert_uint_eq(stats.payload_bytes, 5 * 100 + 5 * 6000);
    ck_assert_uint_eq(stats.groups, 3);
    ck_assert_uint_eq(stats.syncs, 3);
    ck_assert_uint_eq(stats.idle_seals, 1);
    ck_assert_uint_eq(stats.rolls, 0);
    ck_assert_uint_eq(stats.segments, 1);
    ck_assert_uint_eq(stats.written_bytes, 4096 + 32768 + 4096);
    uint64_t size;
    (void)segment_bytes(1, &size);
    ck_assert_uint_eq(wal_bytes(rig.wal), size + 2 * WAL_SEGMENT_MIN);
    rig_end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_writer");
    TCase *t = tcase_create("groups");

    tcase_add_test(t, a_new_log_is_durable_when_it_is_open);
    tcase_add_test(t, what_is_queued_becomes_one_group);
    tcase_add_test(t, groups_lie_on_boundaries_for_every_length);
    tcase_add_test(t, random_lives_of_the_writer);
    tcase_add_test(t, a_chain_of_frames_is_taken_whole_and_in_order);
    tcase_add_test(t, a_group_of_many_frames_is_synced_once);
    tcase_add_test(t, large_queues_are_cut_into_groups_of_the_maximum);
    tcase_add_test(t, the_largest_frame_fits_and_one_byte_more_is_refused);
    suite_add_tcase(suite, t);
    t = tcase_create("idle and rolls");
    tcase_add_test(t, a_second_of_quiet_seals_once);
    tcase_add_test(t, traffic_puts_the_idle_seal_off);
    tcase_add_test(t, a_quiet_log_gets_its_witness_after_a_restart);
    tcase_add_test(t, a_full_segment_is_followed_by_a_spare);
    tcase_add_test(t, an_idle_seal_rolls_too);
    suite_add_tcase(suite, t);
    t = tcase_create("hooks");
    tcase_add_test(t, the_owner_is_asked_before_each_group);
    tcase_add_test(t, done_may_append);
    suite_add_tcase(suite, t);
    t = tcase_create("end");
    tcase_add_test(t, closing_writes_what_is_queued_and_seals);
    tcase_add_test(t, the_numbers_add_up);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
