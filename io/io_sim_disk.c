/*
 * The bytes of simulated files.
 *
 * Each file has one image that is read and, for every 512-byte sector that is not known to be on
 * disk, the bytes that are. A write makes its sectors dirty; a sync makes dirty sectors clean; a
 * failed sync makes them lost, as Linux does: the page stays readable and is called clean, but the
 * disk never saw it, and no later sync will write it unless somebody writes the page again.
 *
 * At a power loss, each by itself and by the seed:
 *   D1  A clean sector is as it is read.
 *   D2  A lost sector is as it was on disk.
 *   D3  A dirty sector is kept, garbled, or dropped (as it was on disk; zero when the disk never
 *       had it).
 *   D4  A size changed since the last sync is kept or dropped.
 *   D5  Sectors behind a truncation go with it: if the truncation is dropped they are all as
 *       before it; if it is kept, what was not written again is zero.
 *   D6  What lies beyond the resulting size is gone.
 *
 * Sectors may survive beyond a size that does not: they cannot be seen. A size may survive whose
 * sectors do not: they read as zeros or garbage, like a file after delayed allocation.
 */
#include "io/io_sim.h"

#define CAP_MIN 4096u

static uint64_t sectors_of(uint64_t bytes)
{
    return (bytes + SIM_SECTOR - 1) / SIM_SECTOR;
}

struct sim_inode *sim_inode_new(struct sim_disk *disk, enum io_kind kind)
{
    struct sim_inode *inode = mem_zalloc(sizeof *inode);

    if (inode == NULL) {
        return NULL;
    }
    inode->kind = kind;
    inode->number = ++disk->next_number;
    inode->cut = SIM_NO_CUT;
    *disk->inodes_tail = inode;
    disk->inodes_tail = &inode->next;
    return inode;
}

void sim_inode_unref(struct sim_disk *disk, struct sim_inode *inode)
{
    struct sim_inode **at = &disk->inodes;

    ASSERT(inode->refs > 0);
    if (--inode->refs > 0) {
        return;
    }
    while (*at != inode) {
        at = &(*at)->next;
    }
    *at = inode->next;
    if (disk->inodes_tail == &inode->next) {
        disk->inodes_tail = at;
    }
    mem_free(inode->now);
    mem_free(inode->old);
    mem_free(inode->states);
    mem_free(inode);
}

static bool grow_zeroed(uint8_t **bytes, uint64_t from, uint64_t to)
{
    uint8_t *bigger = mem_realloc(*bytes, (size_t)to);

    if (bigger == NULL) {
        return false;
    }
    memset(bigger + from, 0, (size_t)(to - from));
    *bytes = bigger;
    return true;
}

static bool reserve(struct sim_inode *inode, uint64_t size)
{
    uint64_t cap = inode->cap > 0 ? inode->cap : CAP_MIN;

    if (size <= inode->cap) {
        return true;
    }
    while (cap < size) {
        cap *= 2;
    }
    /* A part that grew before another failed is only larger than cap says. */
    if (!grow_zeroed(&inode->now, inode->cap, cap) || !grow_zeroed(&inode->old, inode->cap, cap) ||
        !grow_zeroed(&inode->states, inode->cap / SIM_SECTOR, cap / SIM_SECTOR)) {
        return false;
    }
    inode->cap = cap;
    return true;
}

/* Remembers what is on disk for the sectors of [offset, end), which are about to change. */
static void make_dirty(struct sim_inode *inode, uint64_t offset, uint64_t end)
{
    uint64_t first = offset / SIM_SECTOR;
    uint64_t last = sectors_of(end);

    for (uint64_t s = first; s < last; s++) {
        if (inode->states[s] == SECTOR_CLEAN) {
            memcpy(inode->old + s * SIM_SECTOR, inode->now + s * SIM_SECTOR, SIM_SECTOR);
        }
        inode->states[s] = SECTOR_DIRTY;
    }
    if (inode->dirty_first >= inode->dirty_last) {
        inode->dirty_first = first;
        inode->dirty_last = last;
    } else {
        inode->dirty_first = first < inode->dirty_first ? first : inode->dirty_first;
        inode->dirty_last = last > inode->dirty_last ? last : inode->dirty_last;
    }
}

bool sim_inode_write(struct sim_inode *inode, const void *data, size_t len, uint64_t offset)
{
    uint64_t end = offset + len;

    if (len == 0) {
        return true;
    }
    if (!reserve(inode, end)) {
        return false;
    }
    make_dirty(inode, offset, end);
    memcpy(inode->now + offset, data, len);
    inode->now_size = end > inode->now_size ? end : inode->now_size;
    /* Not only when the file grows: after a failed sync the size on disk may be behind. */
    inode->size_dirty = inode->size_dirty || end > inode->disk_size;
    uint64_t charge = sectors_of(end) * SIM_SECTOR;
    inode->charged = charge > inode->charged ? charge : inode->charged;
    return true;
}

bool sim_inode_truncate(struct sim_inode *inode, uint64_t size)
{
    if (!reserve(inode, size)) {
        return false;
    }
    if (size == inode->now_size) {
        return true;
    }
    if (size < inode->now_size) {
        make_dirty(inode, size, inode->now_size);
        memset(inode->now + size, 0, (size_t)(inode->now_size - size));
        inode->cut = size < inode->cut ? size : inode->cut;
        uint64_t charge = sectors_of(size) * SIM_SECTOR;
        inode->charged = charge < inode->charged ? charge : inode->charged;
    }
    inode->now_size = size;
    inode->size_dirty = true;
    return true;
}

void sim_inode_sync(struct sim_inode *inode)
{
    bool lost = false;

    for (uint64_t s = inode->dirty_first; s < inode->dirty_last; s++) {
        if (inode->states[s] == SECTOR_DIRTY) {
            inode->states[s] = SECTOR_CLEAN;
        } else if (inode->states[s] == SECTOR_LOST) {
            lost = true;
        }
    }
    if (!lost) {
        inode->dirty_first = inode->dirty_last = 0;
    }
    if (inode->size_dirty) {
        inode->disk_size = inode->now_size;
        inode->size_dirty = false;
    }
    inode->cut = SIM_NO_CUT;
}

void sim_inode_sync_failed(struct sim_inode *inode)
{
    for (uint64_t s = inode->dirty_first; s < inode->dirty_last; s++) {
        if (inode->states[s] == SECTOR_DIRTY) {
            inode->states[s] = SECTOR_LOST;
        }
    }
    inode->size_dirty = false; /* the size in force stays disk_size until it changes again */
    inode->cut = SIM_NO_CUT;
}

static void garble(uint8_t *sector, uint64_t *rng)
{
    for (size_t at = 0; at < SIM_SECTOR; at += sizeof(uint64_t)) {
        put_le64(sector + at, rng_next(rng));
    }
}

static void resolve_sector(struct sim_inode *inode, uint64_t s, bool keep_size, uint64_t *rng,
                           uint32_t keep_per_mille, uint32_t garble_per_mille)
{
    uint8_t *now = inode->now + s * SIM_SECTOR;
    const uint8_t *old = inode->old + s * SIM_SECTOR;
    bool behind_cut = inode->cut != SIM_NO_CUT && s >= sectors_of(inode->cut);
    uint64_t draw = rng_next(rng) % 1000;

    /* The order of the rules is D2's and D5's: two of them give the old bytes back. */
    /* NOLINTNEXTLINE(bugprone-branch-clone) */
    if (inode->states[s] == SECTOR_LOST || (behind_cut && !keep_size)) {
        memcpy(now, old, SIM_SECTOR);
    } else if (draw < keep_per_mille) {
        return;
    } else if (draw < (uint64_t)keep_per_mille + garble_per_mille) {
        garble(now, rng);
    } else if (behind_cut) {
        memset(now, 0, SIM_SECTOR); /* D5 */
    } else {
        memcpy(now, old, SIM_SECTOR);
    }
}

void sim_inode_resolve(struct sim_inode *inode, uint64_t *rng, uint32_t keep_per_mille,
                       uint32_t garble_per_mille)
{
    bool keep_size = inode->size_dirty && sim_chance(rng, keep_per_mille);

    for (uint64_t s = inode->dirty_first; s < inode->dirty_last; s++) {
        if (inode->states[s] != SECTOR_CLEAN) {
            resolve_sector(inode, s, keep_size, rng, keep_per_mille, garble_per_mille);
            inode->states[s] = SECTOR_CLEAN;
        }
    }
    uint64_t size = keep_size ? inode->now_size : inode->disk_size;
    if (size < inode->cap) {
        memset(inode->now + size, 0, (size_t)(inode->cap - size)); /* D6 */
    }
    inode->now_size = inode->disk_size = size;
    inode->size_dirty = false;
    inode->cut = SIM_NO_CUT;
    inode->dirty_first = inode->dirty_last = 0;
    uint64_t charge = sectors_of(size) * SIM_SECTOR;
    inode->charged = charge < inode->charged ? charge : inode->charged;
}

uint64_t sim_disk_used(const struct sim_disk *disk)
{
    uint64_t used = 0;

    for (const struct sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        if (inode->names > 0 || inode->handles > 0) {
            used += inode->charged;
        }
    }
    return used;
}
