/*
 * Reading a segment that had a former life. The model is a twin: the same blocks of the same groups
 * laid over zeros, in a file of the plain kind, and over the bytes of a former life, with an
 * imprint made here. Whatever a power loss or damage left of the groups, both must yield the same
 * facts, and the same cleaning. The unit of damage is a block; below it (sectors of 512 bytes) a
 * place may be called STALE or torn that is called FRAME or clean over zeros, and what is kept is
 * the same. Catalogue 25, 26, 54, 57.
 */
#include "tests/unit/test_wal_log.h"

#define BLOCKS (SIZE / BLOCK)

static uint8_t former[SIZE]; /* what lay in the file before */
static struct wal_facts plain, recycled;

/* ---- the twins ---- */

/* A former life of the file: groups of random shape to the end, of another number and salt. */
static void make_former(uint64_t seed)
{
    static struct ref_log old;
    uint64_t rng_old = seed;

    struct ref_segment *s = ref_begin(&old, 77, SIZE, 1);
    if (seed % 4 == 0) { /* one payload through nearly all of it */
        ref_group_begin(&old);
        ref_data(&old, 50000, &rng_old);
        ref_group_end(&old);
    }
    while (s->at + 4 * BLOCK < SIZE && seed % 4 != 3) {
        ref_group(&old, (int)(seed % 3), seed % 2 ? 300 : 5000, &rng_old);
    }
    memcpy(former, s->bytes, SIZE);
    if (seed % 4 == 3) { /* not even frames, and the same in each block */
        memset(former + 2 * BLOCK, 0x55, SIZE - 2 * BLOCK);
    }
    ref_release(&old);
}

/* The second life's file: headers with the feature, the former bytes, the imprint. */
static void make_recycled(uint8_t out[SIZE + BLOCK], const struct ref_segment *s)
{
    memcpy(out, former, SIZE);
    memset(out + SIZE, 0, BLOCK);
    for (uint64_t b = 0; b < BLOCKS; b++) {
        ref_put(out + SIZE + 8 * b, 8, hash64(former + b * BLOCK, BLOCK, s->salt ^ (b * BLOCK)));
    }
    ref_segment_header(out, s->number, s->salt, SIZE);
    ref_put(out + 12, 4, 1);
    ref_put(out + 64, 8, 77);
    ref_put(out + 4088, 8, hash64(out, 4088, 0));
    memcpy(out + BLOCK, out, BLOCK);
}

/* Puts the chosen units of the segment's groups over what is there. Units of zeros always: over
 * zeros nobody can see whether they were written. */
static void lay(uint8_t *file, const struct ref_segment *s, const bool *there, uint64_t unit)
{
    for (uint64_t at = 8192; at < s->at; at += unit) {
        if (there[at / unit] || wal_is_zero(s->bytes + at, unit)) {
            memcpy(file + at, s->bytes + at, unit);
        }
    }
}

static void put_segment(uint64_t number, const void *bytes, size_t len)
{
    char path[IO_PATH_MAX];

    segment_path(path, number);
    put_file(tape_base(path), bytes, len);
}

static void same_bad(const struct wal_bad *a, const struct wal_bad *b)
{
    MUST(a->kind == b->kind && a->offset == b->offset && a->lsn == b->lsn);
    MUST(a->group_lsn == b->group_lsn && a->group_offset == b->group_offset);
    MUST(a->end_lsn == b->end_lsn && a->segment_index == b->segment_index);
    MUST(a->group_seal_ok == b->group_seal_ok && a->later_valid == b->later_valid);
    MUST(a->synced == b->synced && a->witnessed == b->witnessed);
    MUST(a->witness_lsn == b->witness_lsn);
}

/* All facts but what a hash was found to be, and the sizes of files. */
static void same_facts(void)
{
    const struct wal_facts *a = &plain, *b = &recycled;

    MUST(a->segment_count == b->segment_count && a->entry_count == b->entry_count);
    MUST(a->first_lsn == b->first_lsn && a->next_lsn == b->next_lsn);
    MUST(a->witnessed_lsn == b->witnessed_lsn && a->epoch_max == b->epoch_max);
    MUST(a->damaged_seals == b->damaged_seals && a->bad_count == b->bad_count);
    for (size_t i = 0; i < a->entry_count; i++) {
        const struct wal_entry *x = &a->entries[i], *y = &b->entries[i];
        MUST(x->lsn == y->lsn && x->seq == y->seq && x->segment == y->segment);
        MUST(x->len == y->len && x->offset == y->offset && x->type == y->type);
    }
    for (size_t i = 0; i < a->segment_count; i++) {
        const struct wal_segment *x = &a->segments[i], *y = &b->segments[i];
        MUST(x->first_lsn == y->first_lsn && x->last_lsn == y->last_lsn);
        MUST(x->end_offset == y->end_offset && x->used_offset == y->used_offset);
        MUST(x->chain == y->chain && x->epoch == y->epoch && x->spare == y->spare);
        MUST(x->torn == y->torn && x->header_bad == y->header_bad);
        MUST(x->void_tail == y->void_tail);
    }
    for (size_t i = 0; i < a->bad_count; i++) {
        same_bad(&a->bads[i], &b->bads[i]);
    }
}

/* ---- what recovery leaves of it ---- */

static void put_listing(struct buf *out, const char *dir)
{
    struct io_list list = {0};

    MUST(io->ops->list(io, dir, &list, &err) == LEVEE_OK);
    for (size_t i = 0; i < list.count; i++) {
        char path[IO_PATH_MAX];
        struct io_stat st;
        uint64_t size = 0;
        const char *name = list.items[i].name;
        MUST(io_path(path, dir, name, &err) == LEVEE_OK);
        MUST(io->ops->stat(io, path, &st, &err) == LEVEE_OK);
        const uint8_t *bytes = st.kind == IO_FILE ? io_sim_bytes(io, path, &size) : NULL;
        bool twin = strcmp(name, "0000000000000002.seg") == 0; /* differs where it was damaged */
        buf_put(out, name, strlen(name) + 1);
        buf_u64(out, size);
        if (!twin && size > 0) {
            buf_put(out, bytes, size);
        }
        MUST(!out->failed);
    }
    io_list_free(&list);
}

static void clean_up(struct wal_facts *f, struct buf *ret)
{
    const struct wal_options o = {
        .dir = WAL_DIR, .context = ref_context, .segment_bytes = WAL_SEGMENT_MIN};
    struct io_stat st;
    uint64_t from = f->witnessed_lsn + 1 < f->next_lsn ? f->witnessed_lsn + 1 : f->next_lsn;

    MUST(wal_rebuild(io, &o, f, from, f->next_lsn - 1, f->epoch_max + 1, &err) == LEVEE_OK);
    MUST(wal_clean(io, &o, f, &err) == LEVEE_OK);
    put_listing(ret, WAL_DIR);
    MUST(io->ops->stat(io, WAL_DIR "/quarantine", &st, &err) == LEVEE_OK);
    if (st.kind == IO_DIR) {
        put_listing(ret, WAL_DIR "/quarantine");
    }
}

static bool stopped(const struct wal_facts *f)
{
    return f->bad.witnessed;
}

/* One trial: both twins with these units of the segment's groups. */
static void compare(const bool *there, uint64_t unit, bool clean)
{
    static uint8_t file[SIZE + BLOCK];
    const struct ref_segment *s = &r.segments[r.segment_count - 1];
    struct buf left[2] = {{0}, {0}};
    struct wal_facts *both[2] = {&plain, &recycled};

    for (int i = 0; i < 2; i++) {
        open_machine(1);
        if (r.segment_count > 1) {
            put_segment(1, r.segments[0].bytes, SIZE);
        }
        if (i == 0) {
            memset(file, 0, SIZE);
            memcpy(file, s->bytes, 8192);
        } else {
            make_recycled(file, s);
        }
        lay(file, s, there, unit);
        put_segment(s->number, file, i == 0 ? SIZE : SIZE + BLOCK);
        MUST(wal_scan(io, WAL_DIR, &ref_context, 0, both[i], &err) == LEVEE_OK);
        if (clean && !stopped(both[i])) {
            struct wal_facts f;
            MUST(wal_scan(io, WAL_DIR, &ref_context, 0, &f, &err) == LEVEE_OK);
            clean_up(&f, &left[i]);
            wal_facts_release(&f);
        }
        io_free(io);
    }
    if (unit == BLOCK) {
        same_facts();
    } else { /* sectors: what is kept, if not what the rest is called */
        MUST(plain.next_lsn == recycled.next_lsn && plain.entry_count == recycled.entry_count);
        MUST(stopped(&plain) == stopped(&recycled));
    }
    MUST(left[0].len == left[1].len);
    MUST(left[0].len == 0 || memcmp(left[0].data, left[1].data, left[0].len) == 0);
    buf_release(&left[0]);
    buf_release(&left[1]);
    wal_facts_release(&plain);
    wal_facts_release(&recycled);
}

/* A full predecessor, and in the file of two lives `groups` groups, the last one of `len` bytes. */
static void make_log(uint64_t seed, int groups, uint32_t len)
{
    rng = seed;
    ref_begin(&r, 1, SIZE, 3);
    ref_group(&r, 2, 300, &rng);
    ref_begin(&r, 2, SIZE, 3);
    for (int g = 1; g < groups; g++) {
        ref_group(&r, (int)(rng_next(&rng) % 3), 3000, &rng);
    }
    ref_group_begin(&r);
    ref_data(&r, len, &rng);
    ref_data(&r, len, &rng);
    ref_group_end(&r);
}

/* ---- the last group, torn in every way ---- */

START_TEST(every_subset_of_the_last_groups_blocks)
{
    int trials = 0;

    for (uint64_t seed = 0; seed < 16; seed++) {
        make_former(seed);
        int groups = 1 + (int)(seed % 5);
        make_log(seed, groups, seed % 2 ? 9000 : 3900);
        const struct ref_group *g = &r.groups[r.group_count - 1];
        uint64_t n = (g->end - g->offset) / BLOCK;
        MUST(n >= 2 && n <= 6);
        for (uint64_t set = 0; set < (UINT64_C(1) << n); set++) {
            bool there[BLOCKS];
            for (uint64_t b = 0; b < BLOCKS; b++) {
                there[b] =
                    b * BLOCK < g->offset || (set >> ((b - g->offset / BLOCK) & 15) & 1) != 0;
            }
            compare(there, BLOCK, seed < 8);
            trials++;
        }
        ref_release(&r);
    }
    ck_assert_int_ge(trials, 250);
}
END_TEST

START_TEST(every_prefix_of_the_last_group_to_the_sector)
{
    for (uint64_t seed = 0; seed < 8; seed++) {
        make_former(seed);
        make_log(seed, 1 + (int)(seed % 3), 5000);
        const struct ref_group *g = &r.groups[r.group_count - 1];
        for (uint64_t end = g->offset; end <= g->end; end += 512) {
            bool there[SIZE / 512];
            for (uint64_t at = 0; at < SIZE; at += 512) {
                there[at / 512] = at < end;
            }
            compare(there, 512, false);
        }
        ref_release(&r);
    }
}
END_TEST

/* Any blocks, of any group: damage to what was acknowledged is found as it is over zeros. */
START_TEST(any_subset_of_all_blocks)
{
    int clean = 0, torn = 0, damaged = 0;

    for (uint64_t seed = 0; seed < 600; seed++) {
        uint64_t dice = seed;
        bool there[BLOCKS];
        make_former(seed);
        make_log(seed, 1 + (int)(seed % 6), (uint32_t)(seed % 7000));
        if (r.segments[1].at + BLOCK <= SIZE && seed % 2) {
            ref_group(&r, 0, 1, &rng); /* an idle seal witnesses the last group */
        }
        for (uint64_t b = 0; b < BLOCKS; b++) {
            there[b] = rng_next(&dice) % 6 != 0;
        }
        compare(there, BLOCK, true);
        ref_release(&r);
    }
    for (uint64_t seed = 0; seed < 60; seed++) { /* and what the verdicts were */
        uint64_t dice = seed;
        static uint8_t file[SIZE + BLOCK];
        bool there[BLOCKS];
        make_former(seed);
        make_log(seed, 4, 3000);
        for (uint64_t b = 0; b < BLOCKS; b++) {
            there[b] = seed % 3 == 0 || rng_next(&dice) % 6 != 0;
        }
        open_machine(1);
        make_recycled(file, &r.segments[1]);
        lay(file, &r.segments[1], there, BLOCK);
        put_segment(1, r.segments[0].bytes, SIZE);
        put_segment(2, file, sizeof file);
        scan();
        clean += facts.bad.kind == WAL_BAD_NONE;
        torn += facts.bad.kind != WAL_BAD_NONE && !facts.bad.witnessed;
        damaged += facts.bad.witnessed;
        close_log();
    }
    ck_assert_int_ge(clean, 20);
    ck_assert_int_ge(torn, 3);
    ck_assert_int_ge(damaged, 10);
}
END_TEST

/* ---- one log of two lives, for what the twins do not show ---- */

static uint8_t second_life[SIZE + BLOCK];

static void open_second_life(void)
{
    make_former(1);
    make_log(1, 3, 5000);
    open_machine(1);
    make_recycled(second_life, &r.segments[1]);
    memcpy(second_life + 8192, r.segments[1].bytes + 8192, r.segments[1].at - 8192);
    put_segment(1, r.segments[0].bytes, SIZE);
    put_segment(2, second_life, sizeof second_life);
}

START_TEST(r1_a_former_life_behind_the_end_is_a_clean_end)
{
    open_second_life();
    expect(WAL_BAD_NONE, 0, 0, false);
    ck_assert(facts.segments[1].recycled);
    ck_assert_uint_eq(facts.segments[1].groups_end, SIZE);
    ck_assert_uint_eq(facts.segments[1].size, SIZE + BLOCK);
    ck_assert_uint_eq(facts.segments[1].end_offset, r.segments[1].at);
    ck_assert_uint_eq(facts.segments[1].used_offset, r.segments[1].at);
    *at(2, SIZE - 1) ^= 1; /* the last byte of the last block */
    expect(WAL_BAD_FRAME, 2, r.next_lsn, false);
    ck_assert_uint_eq(facts.segments[1].used_offset, SIZE);
    close_log();
}
END_TEST

/* Zeros where the former life had left something are a write, or damage: no clean end. */
START_TEST(zeros_behind_the_end_are_not_blank_here)
{
    open_second_life();
    ck_assert(!wal_is_zero(at(2, SIZE - 6 * BLOCK), BLOCK));
    memset(at(2, SIZE - 6 * BLOCK), 0, BLOCK);
    expect(WAL_BAD_FRAME, 2, r.next_lsn, false);
    close_log();
}
END_TEST

/* 54, 57: an acknowledged block that shows the former life again (a lost write, a stale block) is
 * as much damage as one of zeros. */
START_TEST(f54_a_former_block_under_a_witness_is_damage)
{
    open_second_life();
    for (int g = 1; g + 1 < r.group_count; g++) {
        for (uint64_t b = r.groups[g].offset; b < r.groups[g].end; b += BLOCK) {
            memcpy(at(2, b), former + b, BLOCK);
            scan();
            bool data = r.groups[g].last >= r.groups[g].first || g == 1;
            ck_assert(data ? facts.bad.witnessed : facts.damaged_seals == 1);
            memcpy(at(2, b), r.segments[1].bytes + b, BLOCK);
        }
    }
    close_log();
}
END_TEST

/* The imprint is no evidence against anybody: damaged or unreadable it makes a clean end look torn,
 * and everything acknowledged is there all the same. */
START_TEST(a_damaged_imprint_costs_nothing_acknowledged)
{
    open_second_life();
    for (uint64_t bit = 0; bit < (uint64_t)8 * BLOCKS * 8; bit++) {
        uint64_t block = bit / 64;
        *at(2, SIZE + bit / 8) ^= (uint8_t)(1u << bit % 8);
        scan();
        MUST((facts.bad.kind != WAL_BAD_NONE) == (block * BLOCK >= r.segments[1].at));
        MUST(!facts.bad.witnessed && facts.next_lsn == r.next_lsn);
        *at(2, SIZE + bit / 8) ^= (uint8_t)(1u << bit % 8);
    }
    io_sim_bad_range(io, segment_name(2), SIZE, BLOCK);
    scan();
    ck_assert(facts.bad.kind != WAL_BAD_NONE && !facts.bad.witnessed);
    ck_assert_uint_eq(facts.next_lsn, r.next_lsn);
    io_sim_bad_range(io, segment_name(2), 0, 0);
    put_segment(2, second_life, SIZE + 8); /* cut in the imprint */
    scan();
    ck_assert(facts.bad.kind != WAL_BAD_NONE && !facts.bad.witnessed);
    ck_assert_uint_eq(facts.next_lsn, r.next_lsn);
    close_log();
}
END_TEST

/* As recovery leaves a segment that a successor has made void behind its end: without imprint. */
START_TEST(a_segment_cut_at_its_end_needs_no_imprint)
{
    open_second_life();
    put_segment(2, second_life, r.segments[1].at);
    expect(WAL_BAD_NONE, 0, 0, false);
    ck_assert_uint_eq(facts.next_lsn, r.next_lsn);
    close_log();
}
END_TEST

START_TEST(a_recycled_spare_is_a_spare)
{
    open_second_life();
    ref_release(&r);
    ref_begin(&r, 3, SIZE, 1);
    make_recycled(second_life, &r.segments[0]);
    put_segment(3, second_life, sizeof second_life);
    scan();
    ck_assert_int_eq(facts.bad.kind, WAL_BAD_NONE);
    ck_assert_uint_eq(facts.segment_count, 3);
    ck_assert(facts.segments[2].spare && facts.segments[2].recycled);
    close_log();
}
END_TEST

/* What the log writes may be what lay there, block by block: a group is a group all the same. */
START_TEST(payloads_equal_to_the_former_ones_are_read)
{
    static uint8_t same[40000];

    memset(same, 0x55, sizeof same);
    make_former(3); /* 0x55 throughout */
    ref_begin(&r, 1, SIZE, 1);
    ref_group_begin(&r);
    ref_append(&r, (struct ref_frame){.type = 1, .len = sizeof same, .lsn = r.next_lsn++}, same);
    ref_group_end(&r);
    open_machine(1);
    make_recycled(second_life, &r.segments[0]);
    memcpy(second_life + 8192, r.segments[0].bytes + 8192, r.segments[0].at - 8192);
    put_segment(1, second_life, sizeof second_life);
    expect(WAL_BAD_NONE, 0, 0, false);
    ck_assert_uint_eq(facts.entry_count, 1);
    close_log();
}
END_TEST

/* The feature is incompatible: a build that takes zeros for the end refuses, as this one refuses
 * the next bit. */
START_TEST(an_unknown_feature_is_refused)
{
    open_second_life();
    for (int bit = 1; bit < 32; bit++) {
        uint8_t *h = at(2, 0);
        ref_put(h + 12, 4, 1u | UINT32_C(1) << bit);
        ref_put(h + 4088, 8, hash64(h, 4088, 0));
        ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_EDIR_NEWER);
    }
    close_log();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_recycled");
    TCase *t = tcase_create("twins");

    tcase_add_test(t, every_subset_of_the_last_groups_blocks);
    tcase_add_test(t, every_prefix_of_the_last_group_to_the_sector);
    tcase_add_test(t, any_subset_of_all_blocks);
    suite_add_tcase(suite, t);
    t = tcase_create("second life");
    tcase_add_test(t, r1_a_former_life_behind_the_end_is_a_clean_end);
    tcase_add_test(t, zeros_behind_the_end_are_not_blank_here);
    tcase_add_test(t, f54_a_former_block_under_a_witness_is_damage);
    tcase_add_test(t, a_damaged_imprint_costs_nothing_acknowledged);
    tcase_add_test(t, a_segment_cut_at_its_end_needs_no_imprint);
    tcase_add_test(t, a_recycled_spare_is_a_spare);
    tcase_add_test(t, payloads_equal_to_the_former_ones_are_read);
    tcase_add_test(t, an_unknown_feature_is_refused);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
