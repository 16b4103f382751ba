"""The product of tokens and weights that were both rounded to few bits, compiled for the CPU.

The sums of products of whole numbers are exact, and what follows them is the same for each row: a row
comes out the same to the last bit, whichever rows it is computed with.

Shapes: T rows; K inputs in G groups; N outputs. Weights are laid out by panels of outputs, in the order in
which a panel is read: `[panel, K / 4, output, 4]` in eight bits, and in four
`[panel, K / 8, output, 4]`, the lower half of a byte four inputs before the higher.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from martlet.models.compiled.llvm import Builder, Module, Value, at, repeat

LANES = 16
ROWS_AT_ONCE = 192
_DOT = "llvm.x86.avx512.vpdpbusd.512"


@dataclass(frozen=True, kw_only=True)
class Kind:
    bits: int
    group_size: int
    has_zeros: bool
    dtype: torch.dtype
    rows: tuple[int, ...]
    panels: int

def build(kind: Kind) -> Module:
    return _Product(kind).module

class _Product:
    def __init__(self, kind):
        from llvmlite import ir
        self.kind = kind
        self.cols = kind.panels
        self.module = Module("product")
        self.i32, self.i64, self.f32, self.ptr = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.PointerType()
        self.i8=ir.IntType(8); self.i16=ir.IntType(16)
        self.vi = ir.VectorType(self.i32, 16); self.vf = ir.VectorType(self.f32, 16)
        self.dot = self.module.external(_DOT, self.vi, [self.vi]*3)
        self.fma = self.module.external("llvm.fma.v16f32", self.vf, [self.vf]*3)
        params=[self.ptr]*8+[self.i64]*4
        self.tiles={r:self._tile(r) for r in kind.rows}
        self.module.worker("multiply", params, self._item)

    def splat(self, b, v, vt):
        from llvmlite import ir
        u=ir.Constant(vt, ir.Undefined)
        one=b.insert_element(u, v, self.i32(0))
        return b.shuffle_vector(one, u, ir.Constant(ir.VectorType(self.i32,16),[0]*16))

    def _item(self, b, number, x, xs, xo, w, ws, wz, bias, out, T, K, N, G):
        c=self.i64
        blocks=b.udiv(b.add(T,c(ROWS_AT_ONCE-1)),c(ROWS_AT_ONCE))
        panel=b.udiv(number,blocks); block=b.urem(number,blocks)
        first=b.mul(block,c(ROWS_AT_ONCE)); 
        end=b.add(first,c(ROWS_AT_ONCE)); 
        end=b.select(b.icmp_unsigned("<",end,T),end,T)
        width=16*self.cols
        col=b.mul(panel,c(width))
        pb = b.mul(col, K)
        if self.kind.bits==4: pb=b.lshr(pb,c(1))
        wp=at(b,w,pb)
        sz = 4 if self.kind.bits==8 else 2
        sp=at(b,ws,b.mul(b.mul(col,G),c(sz)))
        zp=at(b,wz,b.mul(col,G))
        bp=at(b,bias,b.mul(col,c(4)))
        osz=4 if self.kind.dtype==torch.float32 else 2
        left=b.sub(N,col)
        cur=first
        for r,tile in self.tiles.items():
            fn=b.function
            head,body,after=(fn.append_basic_block() for _ in range(3))
            prev=b.block
            b.branch(head); b.position_at_end(head)
            row=b.phi(self.i64); row.add_incoming(cur,prev)
            nxt=b.add(row,c(r))
            b.cbranch(b.icmp_unsigned("<=",nxt,end),body,after)
            b.position_at_end(body)
            op=at(b,out,b.mul(b.add(b.mul(row,N),col),c(osz)))
            b.call(tile,[at(b,x,b.mul(row,K)),at(b,xs,b.mul(b.mul(row,G),c(4))),at(b,xo,b.mul(b.mul(row,G),c(4))),wp,sp,zp,bp,op,K,N,G,left])
            row.add_incoming(nxt,b.block)
            b.branch(head)
            b.position_at_end(after)
            cur=row

    def _tile(self, R):
        from llvmlite import ir
        C=self.cols; c=self.i64
        fn,b=self.module.function(f"tile{R}",[self.ptr]*8+[self.i64]*4)
        x,xs,xo,w,ws,wz,bias,out,K,N,G,left=fn.args
        xr=[at(b,x,b.mul(K,c(r))) for r in range(R)]
        def offs(g):
            v=[]
            for r in range(R):
                o=b.load(at(b,xo,b.mul(b.add(b.mul(G,c(r)),g),c(4))),typ=self.i32)
                o=self.splat(b,o,self.vi)
                for j in range(C): v.append(o)
            return v
        def xb(p,k):
            v=b.load(at(b,p,k),typ=self.i32,align=1)
            return self.splat(b,v,self.vi)
        def tscale(r,g):
            return self.splat(b,b.load(at(b,xs,b.mul(b.add(b.mul(G,c(r)),g),c(4))),typ=self.f32),self.vf)
        bytev=ir.VectorType(self.i8,64)
        if self.kind.bits==8:
            def step(i,acc):
                acc=list(acc)
                wp=at(b,w,b.mul(i,c(64*C)))
                wv=[b.load(at(b,wp,c(64*j)),typ=self.vi,align=64) for j in range(C)]
                k=b.mul(i,c(4))
                for r in range(R):
                    v=xb(xr[r],k)
                    for j in range(C):
                        acc[r*C+j]=b.call(self.dot,[acc[r*C+j],wv[j],v])
                return acc
            acc=repeat(b,b.lshr(K,c(2)),offs(c(0)),step)
            res=[]
            for r in range(R):
                ts=tscale(r,c(0))
                for j in range(C):
                    s=b.load(at(b,ws,c(64*j)),typ=self.vf,align=4)
                    bb=b.load(at(b,bias,c(64*j)),typ=self.vf,align=4)
                    f=b.fmul(b.sitofp(acc[r*C+j],self.vf),ts)
                    res.append(b.call(self.fma,[f,s,bb]))
        else:
            gs=self.kind.group_size
            halfv=ir.VectorType(self.i16,16)
            def group(g,facc):
                facc=list(facc)
                acc=offs(g)
                gp=at(b,w,b.mul(g,c(gs//8*64*C)))
                gk=b.mul(g,c(gs))
                mask=ir.Constant(bytev,[15]*64); four=ir.Constant(bytev,[4]*64)
                for s in range(gs//8):
                    for j in range(C):
                        raw=b.load(at(b,gp,c((s*C+j)*64)),typ=bytev,align=64)
                        lo=b.bitcast(b.and_(raw,mask),self.vi)
                        hi=b.bitcast(b.lshr(raw,four),self.vi)
                        for r in range(R):
                            p=at(b,xr[r],gk)
                            acc[r*C+j]=b.call(self.dot,[acc[r*C+j],lo,xb(p,c(8*s))])
                        for r in range(R):
                            p=at(b,xr[r],gk)
                            acc[r*C+j]=b.call(self.dot,[acc[r*C+j],hi,xb(p,c(8*s+4))])
                for j in range(C):
                    sraw=b.load(at(b,ws,b.add(b.mul(g,c(32*C)),c(32*j))),typ=halfv,align=2)
                    s=b.bitcast(b.shl(b.zext(sraw,self.vi),ir.Constant(self.vi,[16]*16)),self.vf)
                    for r in range(R):
                        f=b.fmul(b.sitofp(acc[r*C+j],self.vf),tscale(r,g))
                        facc[r*C+j]=b.call(self.fma,[f,s,facc[r*C+j]])
                return facc
            init=[]
            for r in range(R):
                for j in range(C): init.append(b.load(at(b,bias,c(64*j)),typ=self.vf,align=4))
            res=repeat(b,G,init,group)
        lane=ir.Constant(ir.VectorType(self.i64,16),list(range(16)))
        for r in range(R):
            for j in range(C):
                full=b.insert_element(ir.Constant(lane.type,ir.Undefined),left,self.i32(0))
                full=b.shuffle_vector(full,full,ir.Constant(self.vi,[0]*16))
                m=b.icmp_unsigned("<",b.add(lane,ir.Constant(lane.type,[16*j]*16)),full)
                v=res[r*C+j]
                if self.kind.dtype==torch.float32:
                    st=self.module.external("llvm.masked.store.v16f32.p0",ir.VoidType(),[self.vf,self.ptr,self.i32,m.type])
                    sz=4
                else:
                    u=b.bitcast(v,self.vi)
                    odd=b.and_(b.lshr(u,ir.Constant(self.vi,[16]*16)),ir.Constant(self.vi,[1]*16))
                    q=b.add(u,b.add(odd,ir.Constant(self.vi,[0x7fff]*16)))
                    nan=b.fcmp_unordered("uno",v,v)
                    q=b.select(nan,ir.Constant(self.vi,[0x7fc00000]*16),q)
                    v=b.trunc(b.lshr(q,ir.Constant(self.vi,[16]*16)),ir.VectorType(self.i16,16))
                    st=self.module.external("llvm.masked.store.v16i16.p0",ir.VoidType(),[v.type,self.ptr,self.i32,m.type])
                    sz=2
                p=at(b,out,b.mul(b.add(b.mul(N,c(r)),c(16*j)),c(sz)))
                b.call(st,[v,p,self.i32(1),m])
        b.ret_void()
        return fn
