/*
 * Trimming, and the second life of what was trimmed: which segments go, in which order, which are
 * kept and made spares of, what a crash at any step of that leaves, and what it costs. Simulated
 * machine. Catalogue 36 (a name survives a power loss that what replaces it does not), 37, 43, 57,
 * 66; both losses of power and of the process.
 */
#include "tests/unit/test_wal_rig.h"

/* ---- the disk ---- */

static size_t files_on_disk(const char *suffix)
{
    struct io_list list = {0};
    size_t n = 0;

    ck_assert_int_eq(io->ops->list(io, WAL_DIR, &list, &err), LEVEE_OK);
    for (size_t i = 0; i < list.count; i++) {
        size_t len = strlen(list.items[i].name), end = strlen(suffix);
        n += len > end && strcmp(list.items[i].name + len - end, suffix) == 0;
    }
    io_list_free(&list);
    return n;
}

static uint64_t bytes_on_disk(void)
{
    struct io_list list = {0};
    uint64_t bytes = 0;

    ck_assert_int_eq(io->ops->list(io, WAL_DIR, &list, &err), LEVEE_OK);
    for (size_t i = 0; i < list.count; i++) {
        char path[IO_PATH_MAX];
        struct io_stat st;
        ck_assert_int_eq(io_path(path, WAL_DIR, list.items[i].name, &err), LEVEE_OK);
        ck_assert_int_eq(io->ops->stat(io, path, &st, &err), LEVEE_OK);
        bytes += st.size;
    }
    io_list_free(&list);
    return bytes;
}

static uint64_t recycled(void)
{
    struct wal_stats stats;

    wal_stats(rig.wal, &stats);
    return stats.recycled;
}

/* What the disk holds is a run of the frames that were sent, byte by byte, up to at least `last`,
 * from at most `first`. */
static void check_disk(uint64_t first, uint64_t last)
{
    struct wal_facts facts;
    struct buf buf = {0};

    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_OK);
    ck_assert_msg(!facts.bad.witnessed, "damage without damage: kind %d in %s at %d",
                  facts.bad.kind, facts.bad.segment, (int)facts.bad.offset);
    ck_assert_uint_le(facts.first_lsn, first);
    ck_assert_uint_gt(facts.next_lsn, last);
    ck_assert_uint_eq(facts.entry_count, facts.next_lsn - facts.first_lsn);
    for (size_t i = 0; i < facts.entry_count; i++) {
        const struct wal_entry *e = &facts.entries[i];
        const struct sent *s = &rig.sent[e->lsn - 1];
        MUST(wal_read_entry(io, WAL_DIR, &facts, e, &buf, &err) == LEVEE_OK);
        MUST(e->lsn == facts.first_lsn + i && s->frame.lsn == e->lsn && e->len == s->len);
        MUST(memcmp(buf.data, s->payload, s->len) == 0);
    }
    buf_release(&buf);
    wal_facts_release(&facts);
}

/* ---- trimming ---- */

/* Three frames of this length fill a segment. */
#define THIRD 15000

static void fill(size_t frames)
{
    for (size_t i = 0; i < frames; i++) {
        rig_send(THIRD);
        rig_settle();
    }
    ck_assert_uint_eq(rig_acknowledged(), rig.count);
}

/* The lowest LSN still on disk. */
static uint64_t first_on_disk(void)
{
    struct wal_facts facts;

    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_OK);
    ck_assert_int_eq(facts.bad.kind, WAL_BAD_NONE);
    ck_assert_uint_eq(facts.next_lsn, rig.count + 1);
    uint64_t first = facts.first_lsn;
    wal_facts_release(&facts);
    return first;
}

/* For every LSN: what is removed are exactly the segments all of whose frames are below it. */
START_TEST(only_segments_below_the_limit_are_trimmed)
{
    rig_new(30);
    rig_settle();
    fill(20);
    struct wal_facts facts;
    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_OK);
    for (uint64_t lsn = 0; lsn <= 25; lsn++) {
        uint64_t expected = 0;
        size_t in_use = 0;
        for (size_t i = 0; i < facts.segment_count; i++) {
            const struct wal_segment *s = &facts.segments[i];
            in_use += s->first_lsn != 0;
            if (s->first_lsn && !expected && (s->last_lsn >= lsn || s->last_lsn == 20)) {
                expected = s->first_lsn;
            }
        }
        ck_assert_uint_ge(in_use, 5);
        wal_trim(rig.wal, lsn);
        wal_trim(rig.wal, lsn / 2); /* never back */
        rig_settle();
        ck_assert_uint_eq(first_on_disk(), expected);
    }
    wal_facts_release(&facts);
    ck_assert_uint_eq(files_on_disk(".seg"), 3);
    ck_assert_uint_eq(wal_bytes(rig.wal), bytes_on_disk());
    fill(5);
    rig_end();
}
END_TEST

/* Asked for between a roll and the first group behind it, a trim is made up for afterwards. */
START_TEST(an_early_trim_is_made_up_for)
{
    struct wal_stats stats;

    rig_new(35);
    rig_settle();
    fill(10);
    wal_stats(rig.wal, &stats);
    uint64_t rolls = stats.rolls;
    while (stats.rolls == rolls) {
        rig_send(THIRD);
        do {
            wal_stats(rig.wal, &stats);
        } while (stats.rolls == rolls && io_sim_step(io) && rig.done_count < rig.count);
    }
    ck_assert_uint_lt(rig.done_count, rig.count); /* rolled, and the group is to come */
    size_t before = tape.count;
    wal_trim(rig.wal, rig.count);
    rig_settle();
    ck_assert_uint_eq(rig.done_count, rig.count);
    ck_assert_uint_ge(
        tape_find(before, TAPE_UNLINK, ".seg") + tape_find(before, TAPE_RENAME, ".tmp"), 3);
    ck_assert_uint_eq(first_on_disk(), rig.count);
    rig_end();
}
END_TEST

START_TEST(trimming_goes_oldest_first_and_syncs_once)
{
    rig_new(31);
    rig_settle();
    fill(20);
    size_t before = tape.count;
    wal_trim(rig.wal, 15);
    rig_settle();
    uint64_t last = 0;
    for (size_t i = before; i + 1 < tape.count; i++) {
        uint64_t number;
        char name[48]; /* the first one is of no full size, the others are kept */
        memcpy(name, tape.events[i].name, sizeof name);
        ck_assert_int_eq(tape.events[i].kind, i == before ? TAPE_UNLINK : TAPE_RENAME);
        name[20] = '\0';
        ck_assert(wal_segment_number(name, &number));
        ck_assert_uint_gt(number, last);
        last = number;
    }
    ck_assert_uint_ge(last, 3);
    ck_assert_int_eq(tape.events[tape.count - 1].kind, TAPE_SYNC_DIR);
    before = tape.count;
    wal_trim(rig.wal, 15); /* nothing more to do */
    rig_settle();
    ck_assert_uint_eq(tape.count, before);
    rig_end();
}
END_TEST

START_TEST(a_failed_trim_fails_the_log)
{
    static const struct {
        enum tape_kind kind;
        const char *name;
    } cases[] = {{TAPE_UNLINK, ".seg"}, {TAPE_RENAME, ".seg.tmp"}, {TAPE_SYNC_DIR, "wal"}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        rig_new(32 + i);
        rig_settle();
        fill(10);
        wal_trim(rig.wal, 8);
        tape_fail(cases[i].kind, cases[i].name, LEVEE_EIO, 0);
        rig_settle();
        ck_assert_int_eq(rig.failures, 1);
        rig_end();
    }
}
END_TEST

/*
 * 36: the log has rolled, but nothing is in the new segment yet; everything in the old ones is
 * below the limit. Whenever the power goes, what is left is a log that knows its LSNs: none is
 * given out twice.
 */
START_TEST(a_trim_never_removes_the_last_durable_group)
{
    int trimmed = 0, steps = 0;

    for (uint64_t step = 1; step < 60; step++) {
        rig_machine(step);
        rig.opt.group_bytes_max = 1;
        ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
        rig_settle();
        /* Up to where the next frame does not fit any more. */
        struct wal_stats stats;
        do {
            fill(1);
            wal_stats(rig.wal, &stats);
        } while (stats.rolls == 0);
        while (stats.rolls == 1) {
            struct ref_log now = {0};
            rig_read(&now, 2);
            uint64_t room = WAL_SEGMENT_MIN - now.groups[now.group_count - 1].end;
            ref_release(&now);
            if (room < THIRD + 256) {
                break;
            }
            fill(1);
            wal_stats(rig.wal, &stats);
        }
        uint64_t known = wal_durable_lsn(rig.wal);
        struct sim_faults faults = {.seed = step, .crash_at_step = step, .keep_per_mille = 500};
        io_sim_set_faults(io, &faults);
        rig_send(THIRD);
        wal_trim(rig.wal, known + 1);
        rig_settle();
        bool crashed = io_sim_crashed(io);
        io_sim_crash(io);
        rig_close();
        io_sim_power_loss(io);
        struct wal_facts facts;
        ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, known, &facts, &err), LEVEE_OK);
        ck_assert_msg(facts.next_lsn > known, "step %d: the log has forgotten LSN %d", (int)step,
                      (int)known);
        ck_assert(!facts.bad.witnessed);
        trimmed += facts.first_lsn > 1;
        wal_facts_release(&facts);
        rig_end();
        steps++;
        if (!crashed) {
            break;
        }
    }
    ck_assert_int_gt(steps, 5);
    ck_assert_int_gt(trimmed, 0);
}
END_TEST

/* ---- a second life ---- */

/* As at checkpoints: frames, then all of them trimmed. */
static void cycle(size_t frames)
{
    for (size_t i = 0; i < frames && !io_sim_crashed(io); i++) {
        rig_send(THIRD);
        rig_settle();
    }
    wal_trim(rig.wal, wal_durable_lsn(rig.wal));
    rig_settle();
}

START_TEST(trimmed_segments_become_spares)
{
    rig_new(40);
    for (int i = 0; i < 12; i++) {
        cycle(9);
        check_disk(rig.count, rig.count);
        ck_assert_uint_eq(wal_bytes(rig.wal), bytes_on_disk());
    }
    struct wal_stats stats;
    wal_stats(rig.wal, &stats);
    ck_assert_uint_ge(stats.rolls, 35);
    ck_assert_uint_ge(stats.recycled, stats.rolls - 6); /* zeros only while the log grew */
    rig_check_acknowledgements();
    rig_close();
    check_disk(rig.count, rig.count);
    ck_assert_int_eq(rig_recover(&err), LEVEE_OK); /* the kept ones go at the next start */
    rig_settle();
    ck_assert_uint_eq(files_on_disk(".tmp"), 0);
    rig_end();
}
END_TEST

/* Header and imprint of a spare of a second life, byte by byte, from the README. */
START_TEST(a_second_life_is_as_the_readme_says)
{
    int spares = 0;

    rig_new(43);
    for (int i = 0; i < 4; i++) {
        cycle(9);
    }
    for (uint64_t number = 1; number < 60; number++) {
        uint64_t size = 0;
        uint8_t header[BLOCK];
        const uint8_t *file = segment_exists(number) ? segment_bytes(number, &size) : NULL;
        if (!file || size != WAL_SEGMENT_MIN + BLOCK) {
            continue;
        }
        uint64_t salt = ref_get(file + 48, 8), old = ref_get(file + 64, 8);
        ck_assert_uint_lt(old, number);
        ck_assert(!segment_exists(old));
        ref_segment_header(header, number, salt, WAL_SEGMENT_MIN);
        ref_put(header + 12, 4, 1);
        ref_put(header + 64, 8, old);
        ref_put(header + 4088, 8, hash64(header, 4088, 0));
        ck_assert_mem_eq(file, header, BLOCK);
        ck_assert_mem_eq(file + BLOCK, header, BLOCK);
        uint64_t blank = 0, blocks = WAL_SEGMENT_MIN / BLOCK;
        for (uint64_t b = 2; b < blocks; b++) {
            blank += ref_get(file + WAL_SEGMENT_MIN + 8 * b, 8) ==
                     hash64(file + b * BLOCK, BLOCK, salt ^ (b * BLOCK));
        }
        bool used = ref_get(file + 8192 + 56, 8) == ref_header_hash(file + 8192, salt, 8192);
        ck_assert(used ? blank < blocks - 2 : blank == blocks - 2);
        spares += !used;
        for (uint64_t i = 8 * blocks; i < BLOCK; i++) {
            MUST(file[WAL_SEGMENT_MIN + i] == 0);
        }
    }
    ck_assert_int_eq(spares, 2);
    rig_end();
}
END_TEST

/* P1, W5: the name is durably gone before the first byte is written over; imprint and headers are
 * synced before there is a new name, and that is durable before the log writes. */
START_TEST(a_second_life_goes_step_by_step)
{
    static const struct {
        enum tape_kind kind;
        uint64_t offset, len;
    } steps[] = {{TAPE_WRITE, WAL_SEGMENT_MIN, BLOCK}, /* the imprint */
                 {TAPE_WRITE, 0, 2 * BLOCK},
                 {TAPE_SYNC, 0, 0},
                 {TAPE_RENAME, 0, 0},
                 {TAPE_SYNC_DIR, 0, 0}};
    int lives = 0;

    rig_new(41);
    for (int i = 0; i < 5; i++) {
        cycle(9);
    }
    for (size_t i = 0; i < tape.count; i++) {
        const struct tape_event *w = &tape.events[i];
        if (w->kind != TAPE_WRITE || w->offset != WAL_SEGMENT_MIN) {
            continue; /* nothing but an imprint lies there */
        }
        size_t gone = i;
        while (tape.events[gone].kind != TAPE_RENAME ||
               strcmp(tape.events[gone].name, w->name) != 0) {
            MUST(gone-- > 0);
        }
        size_t durable = gone;
        while (tape.events[durable].kind != TAPE_SYNC_DIR) {
            MUST(++durable < i);
        }
        for (size_t k = gone; k < i; k++) { /* nobody writes to it meanwhile */
            MUST(tape.events[k].kind != TAPE_WRITE || strcmp(tape.events[k].name, w->name) != 0);
        }
        for (size_t k = 0, at = i; k < ARRAY_LEN(steps); k++, at++) {
            while (tape_matches(tape.events[at].name, ".seg") &&
                   tape.events[at].kind != TAPE_RENAME) {
                at++; /* the log lane's own */
            }
            MUST(at < tape.count);
            MUST(tape.events[at].kind == steps[k].kind);
            MUST(tape.events[at].offset == steps[k].offset && tape.events[at].len == steps[k].len);
            MUST(steps[k].kind != TAPE_RENAME || strcmp(tape.events[at].from, w->name) == 0);
        }
        lives++;
    }
    ck_assert_int_ge(lives, 8);
    ck_assert_uint_eq(lives, recycled());
    rig_end();
}
END_TEST

/* One sync and one of the directory, as with zeros; but of the segment's size only the imprint and
 * the headers are written. */
START_TEST(a_second_life_costs_three_blocks)
{
    rig_new(42);
    for (int i = 0; i < 4; i++) {
        cycle(9);
    }
    uint64_t before = recycled(), bytes = counter_get(&io->counts.write_bytes);
    struct wal_stats a, b;
    wal_stats(rig.wal, &a);
    uint64_t syncs = counter_get(&io->counts.syncs), dirs = counter_get(&io->counts.dir_syncs);
    cycle(9);
    wal_stats(rig.wal, &b);
    ck_assert_uint_eq(b.rolls - a.rolls, 3);
    ck_assert_uint_eq(recycled() - before, 3);
    ck_assert_uint_eq(counter_get(&io->counts.write_bytes) - bytes,
                      b.written_bytes - a.written_bytes + 3 * (uint64_t)3 * BLOCK);
    ck_assert_uint_eq(counter_get(&io->counts.syncs) - syncs, 9 + 3);
    ck_assert_uint_eq(counter_get(&io->counts.dir_syncs) - dirs, 3 + 1); /* and the trim's */
    rig_end();
}
END_TEST

/* Whenever the machine stops, and whatever of the unsynced bytes and names survives: nothing above
 * the trim limit is lost, nothing reads as damage, and the log goes on. */
static int crash_at_each_step(uint32_t keep, uint32_t garble, bool power)
{
    int steps = 0;

    for (uint64_t step = 1; step < 400; step++) {
        rig_machine(step);
        rig.opt.spares = 1;
        ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
        for (int i = 0; i < 4; i++) {
            cycle(6);
        }
        ck_assert_uint_ge(recycled(), 3);
        uint64_t limit = rig.count;
        struct sim_faults faults = {.seed = step * 7 + keep,
                                    .crash_at_step = step,
                                    .keep_per_mille = keep,
                                    .garble_per_mille = garble};
        io_sim_set_faults(io, &faults);
        for (int i = 0; i < 2 && !io_sim_crashed(io); i++) {
            for (size_t n = 0; n < 6 && !io_sim_crashed(io); n++) {
                struct sent *s = rig_frame(THIRD);
                if (wal_append(rig.wal, &s->frame, &err) != LEVEE_OK) {
                    free(s->payload);
                    rig.count--;
                    break;
                }
                rig_settle();
            }
            limit = wal_durable_lsn(rig.wal);
            wal_trim(rig.wal, limit);
            rig_settle();
        }
        bool crashed = io_sim_crashed(io);
        uint64_t durable = wal_durable_lsn(rig.wal);
        if (!crashed) {
            io_sim_crash(io);
        }
        rig_close();
        if (power) {
            io_sim_power_loss(io);
        } else {
            io_sim_kill(io);
        }
        io_sim_set_faults(io, &(struct sim_faults){.seed = step});
        check_disk(limit, durable);
        ck_assert_int_eq(rig_recover(&err), LEVEE_OK);
        rig_settle();
        check_disk(limit, durable);
        rig_end();
        steps++;
        if (!crashed) {
            break;
        }
    }
    return steps;
}

START_TEST(a_power_loss_at_any_step_of_a_second_life)
{
    static const uint32_t keeps[] = {0, 300, 500, 1000};

    for (size_t i = 0; i < ARRAY_LEN(keeps); i++) {
        int steps = crash_at_each_step(keeps[i], (1000 - keeps[i]) / 2, true);
        ck_assert_int_ge(steps, 40);
        ck_assert_int_lt(steps, 399);
    }
}
END_TEST

START_TEST(a_kill_at_any_step_of_a_second_life)
{
    ck_assert_int_ge(crash_at_each_step(0, 0, false), 40);
}
END_TEST

/* The named points are all passed, and a crash at each of them is one of the above. */
static struct {
    enum crash_point at;
    int passed, crashed;
} point;

static void crash_here(enum crash_point p, void *arg)
{
    (void)arg;
    if (p == point.at && ++point.passed == 3 && !io_sim_crashed(io)) {
        io_sim_crash(io);
        point.crashed++;
    }
}

START_TEST(a_crash_at_every_named_point)
{
    static const enum crash_point points[] = {
        CP_WAL_BEFORE_TRIM,       CP_WAL_AFTER_TRIM_ONE,     CP_WAL_AFTER_TRIM,
        CP_RECYCLE_AFTER_IMPRINT, CP_RECYCLE_AFTER_HEADER,   CP_RECYCLE_AFTER_SYNC,
        CP_RECYCLE_AFTER_RENAME,  CP_RECYCLE_AFTER_DIR_SYNC, CP_WAL_AFTER_ROLL};

    for (size_t i = 0; i < ARRAY_LEN(points); i++) {
        for (uint32_t keep = 0; keep <= 1000; keep += 250) {
            rig_machine(keep + i);
            point.at = points[i];
            point.passed = point.crashed = 0;
            io_sim_set_faults(io, &(struct sim_faults){.seed = keep + i, .keep_per_mille = keep});
            io->crash_hook = crash_here;
            ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
            uint64_t limit = 0;
            for (int c = 0; c < 12 && !point.crashed; c++) {
                for (int n = 0; n < 6 && !point.crashed; n++) {
                    rig_send(THIRD);
                    rig_settle();
                }
                limit = wal_durable_lsn(rig.wal);
                wal_trim(rig.wal, limit);
                rig_settle();
            }
            ck_assert_int_eq(point.crashed, 1);
            uint64_t durable = wal_durable_lsn(rig.wal);
            rig_close();
            if (keep == 250) {
                io_sim_kill(io);
            } else {
                io_sim_power_loss(io);
            }
            io->crash_hook = NULL;
            check_disk(limit, durable);
            ck_assert_int_eq(rig_recover(&err), LEVEE_OK);
            rig_settle();
            check_disk(limit, durable);
            rig_end();
        }
    }
}
END_TEST

/* ---- what is kept ---- */

/* P2: as many as the log used since the trim before; fewer when it uses fewer. */
START_TEST(as_many_are_kept_as_a_cycle_uses)
{
    rig_new(50);
    cycle(30);
    cycle(30); /* ten segments each */
    size_t kept = files_on_disk(".tmp");
    ck_assert_uint_ge(kept, 9);
    ck_assert_uint_le(kept, 11);
    uint64_t largest = bytes_on_disk();
    for (int i = 0; i < 6; i++) {
        cycle(30);
        ck_assert_uint_le(bytes_on_disk(), largest + 20 * (uint64_t)BLOCK); /* imprints */
    }
    for (int i = 0; i < 30; i++) {
        cycle(3);
    }
    ck_assert_uint_le(files_on_disk(".tmp"), 2);
    ck_assert_uint_eq(wal_bytes(rig.wal), bytes_on_disk());
    rig_end();
}
END_TEST

/* P3: no more is kept than is free beside it, and nothing when somebody needs the room. */
START_TEST(what_is_kept_is_given_back)
{
    rig_new(51);
    cycle(30);
    ck_assert_uint_ge(files_on_disk(".tmp"), 8);
    wal_give_back(rig.wal);
    wal_give_back(rig.wal);
    rig_settle();
    ck_assert_uint_eq(files_on_disk(".tmp"), 0);
    ck_assert_uint_eq(wal_bytes(rig.wal), bytes_on_disk());
    cycle(30);
    struct sim_faults tight = {.seed = 1};
    wal_give_back(rig.wal);
    rig_settle();
    for (int i = 0; i < 20; i++) {
        rig_send(THIRD);
        rig_settle();
    }
    tight.capacity_bytes = bytes_on_disk() + WAL_SEGMENT_MIN;
    io_sim_set_faults(io, &tight);
    wal_trim(rig.wal, rig.count);
    rig_settle();
    uint64_t free_bytes = 0;
    ck_assert_int_eq(io->ops->free_space(io, WAL_DIR, &free_bytes, &err), LEVEE_OK);
    uint64_t kept = files_on_disk(".tmp");
    ck_assert_uint_ge(kept, 2);
    ck_assert_uint_lt(kept, 5); /* of six: what is not kept is room for the others */
    ck_assert_uint_ge(free_bytes, kept * WAL_SEGMENT_MIN);
    rig_end();
}
END_TEST

/* P1: somebody's hard link to a segment keeps its bytes. */
START_TEST(a_segment_with_another_name_is_left_alone)
{
    rig_new(52);
    fill(8); /* the first one, of no full size, and more than one whole */
    char path[IO_PATH_MAX];
    uint64_t size;
    segment_path(path, 2);
    ck_assert_int_eq(io->ops->link(io, path, "/mine", &err), LEVEE_OK);
    uint8_t *copy = malloc(WAL_SEGMENT_MIN);
    MUST(copy != NULL);
    memcpy(copy, io_sim_bytes(io, "/mine", &size), WAL_SEGMENT_MIN);
    for (int i = 0; i < 10; i++) {
        cycle(6);
    }
    ck_assert_uint_ge(recycled(), 10);
    ck_assert_mem_eq(copy, io_sim_bytes(io, "/mine", &size), WAL_SEGMENT_MIN);
    ck_assert_uint_eq(size, WAL_SEGMENT_MIN);
    free(copy);
    rig_end();
}
END_TEST

/* ---- failures ---- */

/* A kept file that cannot be read or opened, or has no room for its imprint, is none: zeros. */
START_TEST(what_cannot_be_used_again_is_made_of_zeros)
{
    static const struct {
        enum tape_kind kind;
        int code;
    } cases[] = {
        {TAPE_READ, LEVEE_EIO}, {TAPE_OPEN, LEVEE_ENOTFOUND}, {TAPE_WRITE, LEVEE_ENOSPACE}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        rig_new(60 + i);
        for (int c = 0; c < 3; c++) {
            cycle(6);
        }
        uint64_t before = recycled();
        size_t kept = files_on_disk(".tmp");
        ck_assert_uint_ge(kept, 1);
        tape_fail(cases[i].kind, ".seg.tmp", cases[i].code, 0);
        for (int f = 0; f < 3; f++) { /* one roll */
            rig_send(THIRD);
            rig_settle();
        }
        ck_assert_int_eq(tape.fail_kind, TAPE_NONE);
        ck_assert_int_eq(rig.failures, 0);
        ck_assert_str_eq(rig.space, "");
        ck_assert_uint_eq(recycled(), before);
        ck_assert_uint_eq(rig_acknowledged(), rig.count);
        rig_run(1000 * MS);
        ck_assert_uint_eq(files_on_disk(".seg"), 2 + 2);
        rig_end();
    }
}
END_TEST

/* Every other failure of a step is final, as when a spare is made of zeros. */
START_TEST(a_failing_step_of_a_second_life_fails_the_log)
{
    static const struct {
        enum tape_kind kind;
        const char *name;
        size_t skip;
    } cases[] = {{TAPE_WRITE, ".seg.tmp", 0},
                 {TAPE_WRITE, ".seg.tmp", 1},
                 {TAPE_SYNC, ".seg.tmp", 0},
                 {TAPE_RENAME, ".seg", 0},
                 {TAPE_SYNC_DIR, "wal", 0}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        rig_new(70 + i);
        for (int c = 0; c < 3; c++) {
            cycle(6);
        }
        ck_assert_uint_ge(files_on_disk(".tmp"), 1);
        tape_fail(cases[i].kind, cases[i].name, LEVEE_EIO, cases[i].skip);
        for (int f = 0; f < 3 && !rig.failures; f++) {
            rig_send(THIRD);
            rig_settle();
        }
        ck_assert_int_eq(rig.failures, 1);
        uint64_t durable = wal_durable_lsn(rig.wal);
        rig_close();
        check_disk(durable, durable);
        rig_end();
    }
}
END_TEST

START_TEST(no_memory_for_a_second_life_is_waited_out)
{
    for (uint64_t k = 1; k <= 12; k++) {
        rig_new(80);
        for (int c = 0; c < 3; c++) {
            cycle(6);
        }
        for (int f = 0; f < 2; f++) {
            rig_send(THIRD);
            rig_settle();
        }
        struct sent *s = rig_frame(THIRD);
        mem_fail_at(k);
        int code = wal_append(rig.wal, &s->frame, &err);
        rig_run(50 * MS);
        wal_trim(rig.wal, wal_durable_lsn(rig.wal));
        rig_run(50 * MS);
        mem_fail_at(0);
        ck_assert_int_eq(code, LEVEE_OK);
        rig_run(1000 * MS);
        if (rig.failures == 0) { /* growing the list of segments is no soft failure */
            ck_assert_uint_eq(rig_acknowledged(), rig.count);
        }
        rig_end();
    }
}
END_TEST

/* Somebody reads below the limit all the same, and meets the file between two lives: the error says
 * what happened, and it is no damage. */
static struct wal_facts read_facts;
static struct wal_entry read_entry;

static int read_late(struct io_file *f, void *buf, size_t len, uint64_t offset, size_t *ret_got,
                     struct levee_error *e)
{
    tape.ops.pread = tape_pread; /* the file is open; now the segment is trimmed and used again */
    cycle(9);
    cycle(9);
    return tape_pread(f, buf, len, offset, ret_got, e);
}

START_TEST(a_late_reader_is_told_that_the_frame_was_trimmed)
{
    struct buf buf = {0};

    rig_new(90);
    fill(8);
    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &read_facts, &err), LEVEE_OK);
    size_t i = 0;
    while (read_facts.segments[read_facts.entries[i].segment].number != 2) {
        i++;
    }
    read_entry = read_facts.entries[i];
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &read_facts, &read_entry, &buf, &err), LEVEE_OK);
    tape.ops.pread = read_late;
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &read_facts, &read_entry, &buf, &err),
                     LEVEE_EWAL_GAP);
    ck_assert_ptr_nonnull(strstr(err.what, "trimmed"));
    buf_release(&buf);
    wal_facts_release(&read_facts);
    rig_end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_trim");
    TCase *t = tcase_create("trim");

    tcase_add_test(t, only_segments_below_the_limit_are_trimmed);
    tcase_add_test(t, an_early_trim_is_made_up_for);
    tcase_add_test(t, trimming_goes_oldest_first_and_syncs_once);
    tcase_add_test(t, a_failed_trim_fails_the_log);
    tcase_add_test(t, a_trim_never_removes_the_last_durable_group);
    suite_add_tcase(suite, t);
    t = tcase_create("second life");
    tcase_add_test(t, trimmed_segments_become_spares);
    tcase_add_test(t, a_second_life_is_as_the_readme_says);
    tcase_add_test(t, a_second_life_goes_step_by_step);
    tcase_add_test(t, a_second_life_costs_three_blocks);
    tcase_add_test(t, a_power_loss_at_any_step_of_a_second_life);
    tcase_add_test(t, a_kill_at_any_step_of_a_second_life);
    tcase_add_test(t, a_crash_at_every_named_point);
    suite_add_tcase(suite, t);
    t = tcase_create("kept");
    tcase_add_test(t, as_many_are_kept_as_a_cycle_uses);
    tcase_add_test(t, what_is_kept_is_given_back);
    tcase_add_test(t, a_segment_with_another_name_is_left_alone);
    suite_add_tcase(suite, t);
    t = tcase_create("failures");
    tcase_add_test(t, what_cannot_be_used_again_is_made_of_zeros);
    tcase_add_test(t, a_failing_step_of_a_second_life_fails_the_log);
    tcase_add_test(t, no_memory_for_a_second_life_is_waited_out);
    tcase_add_test(t, a_late_reader_is_told_that_the_frame_was_trimmed);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
