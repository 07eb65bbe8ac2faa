; What surrounds a native run, for runtime/calls.py: functions that Python calls as its own built-in ones, with the GIL held. Their
; `self` is a bytes object, a table of words. Arrays are read where NumPy's C ABI has their fields, behind the head of an object,
; whose size the table tells.

declare ptr @PyList_GetItem(ptr, i64)
declare ptr @PyBytes_AsString(ptr)
declare ptr @PyLong_FromLong(i64)
declare ptr @PyBool_FromLong(i64)
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)

; data, nd, dimensions, strides, base, descr, flags
%Array = type { ptr, i32, ptr, ptr, ptr, ptr, i32 }

; Whether a list's items are NumPy arrays, contiguous, of these dtypes and shapes.
; Table: head, type, arrays; of each: dtype, nd, sizes.
define ptr @mlc_fits(ptr %self, ptr %list) {
entry:
  %table = call ptr @PyBytes_AsString(ptr %self)
  %head = load i64, ptr %table
  %typep = getelementptr i64, ptr %table, i64 1
  %type = load ptr, ptr %typep
  %np = getelementptr i64, ptr %table, i64 2
  %n = load i64, ptr %np
  %first = getelementptr i64, ptr %table, i64 3
  %at.type = sub i64 %head, 8
  br label %array
array:
  %i = phi i64 [ 0, %entry ], [ %i1, %next ]
  %at = phi ptr [ %first, %entry ], [ %behind, %next ]
  %left = icmp slt i64 %i, %n
  br i1 %left, label %look, label %yes
look:
  %object = call ptr @PyList_GetItem(ptr %list, i64 %i)
  %own.typep = getelementptr i8, ptr %object, i64 %at.type
  %own.type = load ptr, ptr %own.typep
  %alike = icmp eq ptr %own.type, %type
  br i1 %alike, label %fields, label %no
fields:
  %a = getelementptr i8, ptr %object, i64 %head
  %dtypep = getelementptr %Array, ptr %a, i32 0, i32 5
  %dtype = load ptr, ptr %dtypep
  %want.dtype = load ptr, ptr %at
  %same.object = icmp eq ptr %dtype, %want.dtype
  %ndp = getelementptr %Array, ptr %a, i32 0, i32 1
  %nd32 = load i32, ptr %ndp
  %nd = sext i32 %nd32 to i64
  %want.ndp = getelementptr i64, ptr %at, i64 1
  %want.nd = load i64, ptr %want.ndp
  %same.nd = icmp eq i64 %nd, %want.nd
  %flagsp = getelementptr %Array, ptr %a, i32 0, i32 6
  %flags = load i32, ptr %flagsp
  %c = and i32 %flags, 1 ; NPY_ARRAY_C_CONTIGUOUS
  %contiguous = icmp ne i32 %c, 0
  %both = and i1 %same.nd, %contiguous
  br i1 %both, label %dtypes, label %no
dtypes:
  br i1 %same.object, label %shape, label %descr
descr: ; of an array that was pickled, for one: the scalar type, then kind, byte order and number of the dtype
  %dp = getelementptr i8, ptr %dtype, i64 %head
  %want.dp = getelementptr i8, ptr %want.dtype, i64 %head
  %d = load <2 x i64>, ptr %dp, align 8
  %want.d = load <2 x i64>, ptr %want.dp, align 8
  %ds = icmp eq <2 x i64> %d, %want.d
  %bits = bitcast <2 x i1> %ds to i2
  %same.descr = icmp eq i2 %bits, -1
  br i1 %same.descr, label %shape, label %no
shape:
  %dimsp = getelementptr %Array, ptr %a, i32 0, i32 2
  %dims = load ptr, ptr %dimsp
  %sizes = getelementptr i64, ptr %at, i64 2
  %behind = getelementptr i64, ptr %sizes, i64 %nd
  br label %axis
axis:
  %x = phi i64 [ 0, %shape ], [ %x1, %equal ]
  %inside = icmp slt i64 %x, %nd
  br i1 %inside, label %compare, label %next
compare:
  %sizep = getelementptr i64, ptr %dims, i64 %x
  %size = load i64, ptr %sizep
  %wantp = getelementptr i64, ptr %sizes, i64 %x
  %want = load i64, ptr %wantp
  %same = icmp eq i64 %size, %want
  br i1 %same, label %equal, label %no
equal:
  %x1 = add i64 %x, 1
  br label %axis
next:
  %i1 = add i64 %i, 1
  br label %array
yes:
  %true = call ptr @PyBool_FromLong(i64 1)
  ret ptr %true
no:
  %false = call ptr @PyBool_FromLong(i64 0)
  ret ptr %false
}

; Runs a program on a list of inputs and one of outputs, NumPy arrays; what it returns, as a number.
; Table: head, mlc_run, its context, buffers, how many inputs and outputs are handed over; of each: buffer, position, bytes from there.
define ptr @mlc_start(ptr %self, ptr %args, i64 %count) {
entry:
  %table = call ptr @PyBytes_AsString(ptr %self)
  %head = load i64, ptr %table
  %runp = getelementptr i64, ptr %table, i64 1
  %run = load ptr, ptr %runp
  %contextp = getelementptr i64, ptr %table, i64 2
  %context = load ptr, ptr %contextp
  %bufsp = getelementptr i64, ptr %table, i64 3
  %bufs = load ptr, ptr %bufsp
  %insp = getelementptr i64, ptr %table, i64 4
  %ins = load i64, ptr %insp
  %outsp = getelementptr i64, ptr %table, i64 5
  %outs = load i64, ptr %outsp
  %patches = getelementptr i64, ptr %table, i64 6
  %inputs = load ptr, ptr %args
  %outputsp = getelementptr ptr, ptr %args, i64 1
  %outputs = load ptr, ptr %outputsp
  %all = add i64 %ins, %outs
  br label %patch
patch:
  %i = phi i64 [ 0, %entry ], [ %i1, %set ]
  %left = icmp slt i64 %i, %all
  br i1 %left, label %set, label %ready
set:
  %in = icmp slt i64 %i, %ins
  %list = select i1 %in, ptr %inputs, ptr %outputs
  %word = mul i64 %i, 3
  %bufferp = getelementptr i64, ptr %patches, i64 %word
  %buffer = load i64, ptr %bufferp
  %positionp = getelementptr i64, ptr %bufferp, i64 1
  %position = load i64, ptr %positionp
  %shiftp = getelementptr i64, ptr %bufferp, i64 2
  %shift = load i64, ptr %shiftp
  %object = call ptr @PyList_GetItem(ptr %list, i64 %position)
  %a = getelementptr i8, ptr %object, i64 %head
  %data = load i64, ptr %a
  %there = add i64 %data, %shift
  %to = getelementptr i64, ptr %bufs, i64 %buffer
  store i64 %there, ptr %to
  %i1 = add i64 %i, 1
  br label %patch
ready:
  %thread = call ptr @PyEval_SaveThread()
  %code = call i32 %run(ptr %context)
  call void @PyEval_RestoreThread(ptr %thread)
  %wide = sext i32 %code to i64
  %number = call ptr @PyLong_FromLong(i64 %wide)
  ret ptr %number
}
