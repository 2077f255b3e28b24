/* Python's face of the launcher: converts arguments, calls spawn.c, converts the answer. */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "failpoints.h"
#include "lines.h"
#include "memory.h"
#include "plan.h"
#include "spawn.h"
#include "steps.h"
#include "trees.h"

/* The stage program, put here by stage_image.S. */
extern const unsigned char bulkhead_stage_start[], bulkhead_stage_end[];

/* One sealed copy for this process and, because it is inherited, for all that fork from it. */
static int program_fd = -1;
static ino_t program_inode;
static dev_t program_device;
static PyObject *spawn_error;

static const char *const step_names[] = {
#define BULKHEAD_STEP_TEXT(name, text) text,
    BULKHEAD_STEPS(BULKHEAD_STEP_TEXT)
#undef BULKHEAD_STEP_TEXT
};

static const char *const failpoint_names[] = {
#define BULKHEAD_FAILPOINT_TEXT(name, text, step) text,
    BULKHEAD_FAILPOINTS(BULKHEAD_FAILPOINT_TEXT)
#undef BULKHEAD_FAILPOINT_TEXT
};

static PyObject *raise_step(int step, int error)
{
    PyObject *arguments = Py_BuildValue("(isi)", error, strerror(error), step);
    if (arguments) {
        PyErr_SetObject(spawn_error, arguments);
        Py_DECREF(arguments);
    }
    return NULL;
}

/* A process that detached may have closed every descriptor it did not know, ours among them. */
static int program_is_ours(void)
{
    struct stat now;
    return program_fd >= 0 && fstat(program_fd, &now) == 0 && now.st_ino == program_inode && now.st_dev == program_device;
}

static int ensure_program(void)
{
    struct stat now;
    if (program_is_ours())
        return program_fd;
    program_fd = spawn_seal("bulkhead-nsinit", bulkhead_stage_start,
                            (size_t)(bulkhead_stage_end - bulkhead_stage_start), 1);
    if (program_fd >= 0 && fstat(program_fd, &now) == 0) {
        program_inode = now.st_ino;
        program_device = now.st_dev;
    }
    return program_fd;
}

static PyObject *prepare(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    int fd = ensure_program();
    if (fd < 0)
        return raise_step(STEP_PREPARE, -fd);
    Py_RETURN_NONE;
}

/* A Python sequence of descriptors into `fds`; their number, or -1 with an exception set. */
static Py_ssize_t fill_descriptors(PyObject *sequence, int *fds, Py_ssize_t most)
{
    Py_ssize_t count = PySequence_Size(sequence);
    if (count < 0)
        return -1;
    if (count > most) {
        PyErr_Format(PyExc_ValueError, "at most %zd descriptors can be passed", most);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PySequence_GetItem(sequence, i);
        if (!item)
            return -1;
        long fd = PyLong_AsLong(item);
        Py_DECREF(item);
        if (fd < 0) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "a descriptor is negative");
            return -1;
        }
        fds[i] = (int)fd;
    }
    return count;
}

/* A word for each point, or nothing when none is set. */
static int fill_failpoints(struct spawn_request *request, const char *words, Py_ssize_t size)
{
    if (size == 0)
        return 0;
    if (size != sizeof request->failpoints) {
        PyErr_SetString(PyExc_ValueError, "a word for each failpoint is expected");
        return -1;
    }
    memcpy(request->failpoints, words, sizeof request->failpoints);
    request->armed = true;
    return 0;
}

/* What a birth's capsule is called tells how far it is; the last two own nothing. */
#define UNBORN_NAME "bulkhead.nsexec.unborn"
#define BIRTH_NAME "bulkhead.nsexec.birth"
#define SETTLED_NAME "bulkhead.nsexec.settled"

static void forget_birth(PyObject *capsule)
{
    struct spawn_result result = {0};
    if (PyCapsule_IsValid(capsule, UNBORN_NAME))
        spawn_forget(PyCapsule_GetPointer(capsule, UNBORN_NAME));
    else if (PyCapsule_IsValid(capsule, BIRTH_NAME))
        spawn_settle(PyCapsule_GetPointer(capsule, BIRTH_NAME), &result);
}

static PyObject *settle(PyObject *Py_UNUSED(self), PyObject *capsule)
{
    struct spawn_result result = {0};
    int failed;
    if (PyCapsule_IsValid(capsule, SETTLED_NAME))
        Py_RETURN_NONE;
    struct spawn_birth *birth = PyCapsule_GetPointer(capsule, BIRTH_NAME);
    if (!birth || PyCapsule_SetName(capsule, SETTLED_NAME) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = spawn_settle(birth, &result);
    Py_END_ALLOW_THREADS
    if (failed)
        return raise_step(result.step, result.error);
    Py_RETURN_NONE;
}

static PyObject *await_end(PyObject *Py_UNUSED(self), PyObject *arguments)
{
    int sync, pidfd, milliseconds;
    if (!PyArg_ParseTuple(arguments, "iii:await_end", &sync, &pidfd, &milliseconds))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    spawn_await_end(sync, pidfd, milliseconds);
    Py_END_ALLOW_THREADS
    if (PyErr_CheckSignals() < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *conceived(struct spawn_request *request)
{
    struct spawn_result result = {0};
    struct spawn_birth *birth = spawn_conceive(request, &result);
    if (!birth)
        return raise_step(result.step, result.error);
    PyObject *capsule = PyCapsule_New(birth, UNBORN_NAME, forget_birth);
    if (!capsule)
        spawn_forget(birth);
    return capsule;
}

static PyObject *bear(PyObject *Py_UNUSED(self), PyObject *capsule)
{
    struct spawn_result result = {0};
    int failed;
    struct spawn_birth *birth = PyCapsule_GetPointer(capsule, UNBORN_NAME);
    if (!birth || PyCapsule_SetName(capsule, SETTLED_NAME) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = spawn_bear(birth, &result);
    Py_END_ALLOW_THREADS
    if (failed)
        return raise_step(result.step, result.error);
    PyCapsule_SetName(capsule, BIRTH_NAME);
    return Py_BuildValue("(iii)", result.pid, result.pidfd, result.sync);
}

static PyObject *conceive(PyObject *Py_UNUSED(self), PyObject *arguments)
{
    struct spawn_request request = {0};
    const char *plan, *words = "";
    Py_ssize_t size, words_size = 0;
    unsigned long long flags;
    PyObject *extra, *tasks;
    if (!PyArg_ParseTuple(arguments, "y#Kii(iii)OO|y#:conceive", &plan, &size, &flags, &request.network, &request.cgroup,
                          &request.stdio[0], &request.stdio[1], &request.stdio[2], &extra, &tasks, &words,
                          &words_size) ||
        fill_failpoints(&request, words, words_size) < 0)
        return NULL;
    Py_ssize_t extra_count = fill_descriptors(extra, request.extra, SPAWN_MAX_EXTRA);
    if (extra_count < 0)
        return NULL;
    Py_ssize_t tasks_count = fill_descriptors(tasks, request.tasks, SPAWN_MAX_TASKS);
    if (tasks_count < 0)
        return NULL;
    request.extra_count = (size_t)extra_count;
    request.tasks_count = (size_t)tasks_count;
    request.clone_flags = flags;
    request.program = ensure_program();
    if (request.program < 0)
        return raise_step(STEP_PREPARE, -request.program);
    request.plan = spawn_seal("bulkhead-plan", plan, (size_t)size, 0);
    if (request.plan < 0)
        return raise_step(STEP_PREPARE, -request.plan);
    return conceived(&request);
}

static PyObject *check_plan(PyObject *Py_UNUSED(self), PyObject *argument)
{
    char *bytes;
    Py_ssize_t size;
    struct plan plan;
    if (PyBytes_AsStringAndSize(argument, &bytes, &size) < 0)
        return NULL;
    return PyBool_FromLong(plan_decode(bytes, (size_t)size, &plan) == 0);
}

static PyObject *bytes_or_error(long outcome)
{
    if (outcome >= 0)
        return PyLong_FromLong(outcome);
    errno = (int)-outcome;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *new_network(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    return bytes_or_error(spawn_network());
}

static PyObject *share_memory(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    return bytes_or_error(memory_share());
}

static PyObject *give_back_memory(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    return bytes_or_error(memory_give_back());
}

#define MOST_RANGES 4096

static PyObject *written_memory(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    static struct memory_range ranges[MOST_RANGES];
    long count = memory_written(ranges, MOST_RANGES);
    if (count < 0)
        return bytes_or_error(count);
    return PyBytes_FromStringAndSize((const char *)ranges, count * (Py_ssize_t)sizeof *ranges);
}

static PyObject *copy_memory(PyObject *Py_UNUSED(self), PyObject *argument)
{
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(argument, &bytes, &size) < 0)
        return NULL;
    /* The content of a bytes object is aligned like the size before it. */
    memory_copy((const void *)bytes, (unsigned)(size / (Py_ssize_t)sizeof(struct memory_range)));
    Py_RETURN_NONE;
}

static PyObject *be_model(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    return bytes_or_error(memory_model());
}

static PyObject *has_likeness(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(memory_is_drawn());
}

/* The records of text[start:end]: None where that is not ASCII. Others may run meanwhile: nobody else has the answer
 * yet, and bytes do not change. */
static PyObject *encoded(struct lines_request *request)
{
    size_t size;
    Py_BEGIN_ALLOW_THREADS
    size = lines_measure(request);
    Py_END_ALLOW_THREADS
    if (!size)
        Py_RETURN_NONE;
    PyObject *records = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    char *out = records ? PyBytes_AsString(records) : NULL;
    if (!out)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    lines_write(request, out);
    Py_END_ALLOW_THREADS
    return records;
}

static PyObject *json_lines(PyObject *Py_UNUSED(self), PyObject *arguments)
{
    const char *text, *suffix;
    Py_ssize_t size, suffix_size, start, end;
    if (!PyArg_ParseTuple(arguments, "y#nny#:json_lines", &text, &size, &start, &end, &suffix, &suffix_size))
        return NULL;
    if (start < 0 || start >= end || end > size || text[end - 1] != '\n') {
        PyErr_SetString(PyExc_ValueError, "whole lines are expected");
        return NULL;
    }
    struct lines_request request = {
        .text = (const unsigned char *)text + start,
        .size = (size_t)(end - start),
        .suffix = suffix,
        .suffix_size = (size_t)suffix_size,
    };
    return encoded(&request);
}

static PyObject *empty_directory(PyObject *Py_UNUSED(self), PyObject *arguments)
{
    int directory, levels;
    long most;
    if (!PyArg_ParseTuple(arguments, "ili:empty_directory", &directory, &most, &levels))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    most = tree_empty(directory, most, levels);
    Py_END_ALLOW_THREADS
    return bytes_or_error(most);
}

static PyObject *is_new_directory(PyObject *Py_UNUSED(self), PyObject *arguments)
{
    int directory, parent, answer;
    if (!PyArg_ParseTuple(arguments, "ii:is_new_directory", &directory, &parent))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    answer = tree_is_new(directory, parent);
    Py_END_ALLOW_THREADS
    return answer < 0 ? bytes_or_error(answer) : PyBool_FromLong(answer);
}

/* Borrows what `pairs`, a tuple that nobody changes, holds. */
static int fill_files(PyObject *pairs, struct tree_file *files, Py_ssize_t most)
{
    Py_ssize_t size, count = PyTuple_Size(pairs);
    if (count > most) {
        PyErr_SetString(PyExc_ValueError, "too many files");
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = PyTuple_GetItem(pairs, i);
        if (!PyArg_ParseTuple(pair, "sy#:write_files", &files[i].name, &files[i].content, &size))
            return -1;
        files[i].size = (size_t)size;
    }
    return 0;
}

#define MOST_FILES 16

static PyObject *write_files(PyObject *Py_UNUSED(self), PyObject *arguments)
{
    struct tree_file files[MOST_FILES];
    const char *directory;
    PyObject *pairs;
    int result;
    if (!PyArg_ParseTuple(arguments, "sO!:write_files", &directory, &PyTuple_Type, &pairs) ||
        fill_files(pairs, files, MOST_FILES) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = tree_write(directory, files, (size_t)PyTuple_Size(pairs));
    Py_END_ALLOW_THREADS
    return result < 0 ? bytes_or_error(result) : Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"prepare", prepare, METH_NOARGS,
     "prepare() -> None\n\nMake the sealed stage program now, so that forks of this process share it."},
    {"conceive", conceive, METH_VARARGS,
     "conceive(plan, clone_flags, network_fd, cgroup_fd, (stdin, stdout, stderr), extra_fds, task_fds, failpoints=b'') "
     "-> birth\n\n"
     "Make ready all that the stage needs; the descriptors given are to stay open until `bear`. SpawnError."},
    {"bear", bear, METH_O,
     "bear(birth) -> (pid, pidfd, sync_fd)\n\n"
     "Start the stage, once. Raises SpawnError(errno, text, step); then nothing is left behind."},
    {"settle", settle, METH_O,
     "settle(birth) -> None\n\n"
     "Wait until the child executes the stage. SpawnError when it has ended before; it is to be reaped."},
    {"await_end", await_end, METH_VARARGS,
     "await_end(sync_fd, pidfd, milliseconds) -> None\n\n"
     "Wait until the other end is closed everywhere, that process (-1: none) has ended, or for so long; what is said "
     "there does not end it."},
    {"new_network", new_network, METH_NOARGS,
     "new_network() -> int\n\nDescriptor of a network namespace that nobody was in yet. OSError."},
    {"check_plan", check_plan, METH_O, "check_plan(plan) -> bool\n\nWhether the stage would accept these bytes."},
    {"share_memory", share_memory, METH_NOARGS,
     "share_memory() -> int\n\nLet forks of this process share its memory again: see give_back_memory."},
    {"give_back_memory", give_back_memory, METH_NOARGS,
     "give_back_memory() -> int\n\nDrop the copies of pages that are as they were at share_memory; how many bytes. "
     "OSError (EBUSY) where there are other threads."},
    {"written_memory", written_memory, METH_NOARGS,
     "written_memory() -> bytes\n\nWhich pages this process has written to since it was forked, for copy_memory."},
    {"copy_memory", copy_memory, METH_O,
     "copy_memory(pages) -> None\n\nMake copies now of the pages that a fork like this one has written to."},
    {"be_model", be_model, METH_NOARGS,
     "be_model() -> int\n\nAt its next give_back_memory this fork leaves a likeness of itself, for all forks to share: "
     "pages that differ from those at share_memory, and are the same in most."},
    {"has_likeness", has_likeness, METH_NOARGS, "has_likeness() -> bool\n\nWhether a model has left one."},
    {"json_lines", json_lines, METH_VARARGS,
     "json_lines(text, start, end, suffix) -> bytes | None\n\n"
     "Records of Docker's json-file of the whole lines text[start:end]; None where they are not ASCII."},
    {"empty_directory", empty_directory, METH_VARARGS,
     "empty_directory(directory, most, levels) -> int\n\n"
     "Delete what is in an open directory, through no link; how many entries more there might have been. OSError (EFBIG) "
     "for more than `most` entries or `levels` levels, of which a part is gone then."},
    {"is_new_directory", is_new_directory, METH_VARARGS,
     "is_new_directory(directory, parent) -> bool\n\n"
     "Whether an open directory is as if we had made it just now (0700) below the open `parent`: nothing in it, on it, or "
     "in hold of it. It is locked (flock) then. OSError."},
    {"write_files", write_files, METH_VARARGS,
     "write_files(directory, ((name, content), ...)) -> None\n\nWrite files in place, each readable for all. OSError."},
    {NULL, NULL, 0, NULL},
};

static int add_names(PyObject *module, const char *attribute, const char *const *texts, Py_ssize_t count)
{
    PyObject *names = PyTuple_New(count);
    if (!names)
        return -1;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyUnicode_FromString(texts[i]);
        if (!name || PyTuple_SetItem(names, i, name) < 0) {
            Py_DECREF(names);
            return -1;
        }
    }
    int failed = PyModule_AddObjectRef(module, attribute, names);
    Py_DECREF(names);
    return failed;
}

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_nsexec", "The clone/exec core: see nsexec/__init__.py.", -1, methods, NULL, NULL, NULL,
    NULL,
};

PyMODINIT_FUNC PyInit__nsexec(void);

PyMODINIT_FUNC PyInit__nsexec(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (!module)
        return NULL;
    spawn_error = PyErr_NewException("bulkhead.nsexec._nsexec.SpawnError", NULL, NULL);
    if (!spawn_error || PyModule_AddObjectRef(module, "SpawnError", spawn_error) < 0 ||
        add_names(module, "STEPS", step_names, STEP_COUNT) < 0 ||
        add_names(module, "FAILPOINTS", failpoint_names, FAILPOINT_COUNT) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
